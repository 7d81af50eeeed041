"""Dialogues: who sees what, when they stop, and what a failed critic leaves."""

from __future__ import annotations

import dataclasses

import pytest

from didact.controls import controlled
from didact.controls.substitutes import deal
from didact.engines.base import Sample, SamplingParams
from didact.errors import UsageError
from didact.evaluation.evaluate import evaluate
from didact.feedback_source import FeedbackRequest
from didact.prompts import REVISION
from didact.rollouts.base import single_turn
from didact.rollouts.multi_turn import two_turn
from didact.tasks.base import Verdict
from tests.helpers import CountingCritic, EchoTask, ScriptedEngine, context

PROBLEMS = [EchoTask().train_problem(i) for i in range(3)]


def test_single_turns_are_grouped_by_problem_and_verified() -> None:
    ctx = context(ScriptedEngine(lambda text, j: "a" if j else "b"), step=7)
    rollouts = single_turn(ctx, PROBLEMS, 2)
    assert [r.id for r in rollouts] == ["7/0/0/0", "7/0/0/1", "7/1/1/0", "7/1/1/1", "7/2/2/0", "7/2/2/1"]
    assert [r.group for r in rollouts[:3]] == ["7/0/0", "7/0/0", "7/1/1"]
    assert [r.turns[0].reward for r in rollouts[:2]] == [0.0, 1.0]
    assert rollouts[0].turns[0].completion_ids == (ord("b"), 0)  # as sampled, with its end


def test_one_problem_twice_in_a_step_makes_two_groups() -> None:
    rollouts = single_turn(context(), [PROBLEMS[0], PROBLEMS[0]], 2)
    assert len({r.group for r in rollouts}) == 2
    assert len({r.id for r in rollouts}) == 4


def test_a_revision_answers_a_fresh_prompt_with_question_attempt_and_critique() -> None:
    engine = ScriptedEngine(lambda text, j: "a" if "wrong" in text else "b")
    (rollout,) = two_turn(context(engine, CountingCritic()), PROBLEMS[:1], 1)
    first, second = engine.prompts
    assert not second.startswith(first)
    assert [second.count(part) for part in ("q0", "\nb\n", "wrong 0")] == [1, 1, 1]
    assert second.count("User:") == 1
    assert [t.text for t in rollout.turns] == ["b", "a"]
    assert [t.correct for t in rollout.turns] == [False, True]


def test_the_reference_reaches_no_prompt_of_the_policy() -> None:
    engine = ScriptedEngine(lambda text, j: "no")
    secret = [p.model_copy(update={"reference": "SECRET"}) for p in PROBLEMS]
    two_turn(context(engine, CountingCritic()), secret, 2)
    assert not any("SECRET" in prompt for prompt in engine.prompts)


def test_a_right_first_answer_ends_the_dialogue() -> None:
    critic = CountingCritic()
    rollouts = two_turn(context(ScriptedEngine(lambda text, j: "a"), critic), PROBLEMS, 2)
    assert critic.asked == 0
    assert all(len(r.turns) == 1 and not r.feedback for r in rollouts)


def test_without_early_stop_a_right_answer_is_criticised_too() -> None:
    critic = CountingCritic()
    rollouts = two_turn(context(ScriptedEngine(lambda text, j: "a"), critic), PROBLEMS, 1, early_stop=False)
    assert critic.asked == 3
    assert all(len(r.turns) == 2 for r in rollouts)


def test_a_failed_critic_leaves_one_turn_and_its_failure() -> None:
    engine = ScriptedEngine(lambda text, j: "a" if "wrong" in text else "b")
    rollouts = two_turn(context(engine, CountingCritic(fails=[1])), PROBLEMS, 1)
    assert [len(r.turns) for r in rollouts] == [2, 1, 2]
    assert rollouts[1].feedback_failed(0)
    assert rollouts[1].feedback_on(0) is None
    assert rollouts[1].feedback[0].error == "scripted"


def test_all_critics_failing_is_survived() -> None:
    engine = ScriptedEngine(lambda text, j: "b")
    rollouts = two_turn(context(engine, CountingCritic(fails=range(9))), PROBLEMS, 1)
    assert [len(r.turns) for r in rollouts] == [1, 1, 1]


def test_no_critic_is_a_usage_error_with_a_cure() -> None:
    with pytest.raises(UsageError, match=r"set `feedback\.source`"):
        two_turn(context(ScriptedEngine(lambda text, j: "b")), PROBLEMS, 1)


def test_a_revision_that_does_not_fit_leaves_one_turn_and_a_good_critique() -> None:
    engine = ScriptedEngine(lambda text, j: "long" * 30 if "q1" in text else "b")
    short = len(REVISION) + 60
    engine.max_length = short
    rollouts = two_turn(context(engine, CountingCritic()), PROBLEMS, 1)
    assert [len(r.turns) for r in rollouts] == [2, 1, 2]
    assert rollouts[1].feedback_on(0) is not None
    assert all(len(prompt) + 4 <= short for prompt in engine.prompts)


def test_an_answers_text_ends_before_the_first_stop_string() -> None:
    class Stopping(ScriptedEngine):
        def _sample(self, text: str) -> Sample:
            return super()._sample(text)._replace(stop_reason="stop")

    sampling = SamplingParams(max_tokens=9, stop=("##", "\n"))
    ctx = context(Stopping(lambda text, j: "a\n##"), sampling=sampling)
    turn = single_turn(ctx, PROBLEMS[:1], 1)[0].turns[0]
    assert (turn.text, turn.correct) == ("a", True)
    assert ctx.renderer.text(turn.completion_ids) == "a\n##"


# ── evaluation ────────────────────────────────────────────────────────────────────────────────────


def test_the_first_answers_of_an_evaluation_see_no_critique() -> None:
    engine = ScriptedEngine(lambda text, j: "a" if "wrong" in text else "b")
    found = evaluate(context(engine, CountingCritic()), PROBLEMS)
    assert not any("wrong" in prompt for prompt in engine.prompts[:3])
    shares = {key: value for key, value in found.metrics().items() if not key.endswith("ci95")}
    assert shares == {"n": 3, "accuracy": 0.0, "reward": 0.0, "accuracy_after_feedback": 1.0}


def test_after_feedback_is_not_reported_where_a_critic_failed() -> None:
    engine = ScriptedEngine(lambda text, j: "b")
    found = evaluate(context(engine, CountingCritic(fails=[2])), PROBLEMS)
    assert "accuracy_after_feedback" not in found.metrics()


def test_unverified_answers_are_left_out_and_none_verified_is_an_error() -> None:
    class Shy(EchoTask):
        def verify(self, problem, answer):  # type: ignore[no-untyped-def]
            return super().verify(problem, answer) if problem.id in self.known else Verdict(None, False)

    task = Shy()
    task.known = {"0", "2"}
    ctx = context(ScriptedEngine(lambda text, j: "a"), task=task)
    assert evaluate(ctx, PROBLEMS).metrics()["n"] == 2
    task.known = set()
    with pytest.raises(UsageError, match=r"eval\.problems=0"):
        evaluate(ctx, PROBLEMS)


# ── the shuffled control ──────────────────────────────────────────────────────────────────────────


def requests(sizes: list[int]) -> list[FeedbackRequest]:
    turn = single_turn(context(), PROBLEMS[:1], 1)[0].turns[0]
    return [
        FeedbackRequest(EchoTask().train_problem(problem), turn, 0)
        for problem, size in enumerate(sizes)
        for _ in range(size)
    ]


@pytest.mark.parametrize("sizes", [[1, 1], [8, 8, 8], [1, 5, 2, 3], [3, 1, 2], [4, 4]])
def test_every_critique_is_dealt_once_and_to_another_problem(sizes) -> None:  # type: ignore[no-untyped-def]
    asked = requests(sizes)
    givers = deal(asked, 3)
    assert sorted(g for g in givers if g is not None) == list(range(len(asked)))
    assert all(asked[g].problem.id != asked[i].problem.id for i, g in enumerate(givers) if g is not None)


def test_where_no_other_problem_is_left_the_critique_fails_rather_than_leaks() -> None:
    asked = requests([5, 1])
    dealt = controlled(CountingCritic(), "shuffled").critique(asked)
    assert [f.ok for f in dealt].count(True) == 2
    assert all(f.error for f in dealt if not f.ok)


def test_a_deal_depends_on_the_seed_and_on_nothing_else() -> None:
    asked = requests([2] * 6)
    deals = [deal(asked, s) for s in (0, 0, 1)]
    assert deals[0] == deals[1]
    assert deals[0] != deals[2]


def test_a_dealt_critique_says_that_it_was_dealt() -> None:
    dealt = controlled(CountingCritic(), "shuffled").critique(requests([1, 1]))
    assert [f.text for f in dealt] == ["wrong 1", "wrong 0"]
    assert {f.provenance.label for f in dealt} == {"shuffled:test"}


def test_two_ids_of_one_question_cannot_swap_their_true_critiques() -> None:
    asked = requests([1, 1, 1, 1])
    twin = asked[0].problem.model_copy(update={"id": "twin"})
    asked = [dataclasses.replace(asked[0], problem=twin), *asked]
    for seed in range(8):
        givers = deal(asked, seed)
        assert {givers[0], givers[1]} & {0, 1} == set()
