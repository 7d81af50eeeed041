"""What a step's line of metrics.jsonl says, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from didact.engines.base import AdamParams, Loss, StepOutput
from didact.evaluation.calibration import calibration, stated_verdict
from didact.feedback.code import RIGHT as CODE_RIGHT
from didact.feedback.program import RIGHT, WRONG
from didact.methods import METHODS, make_method
from didact.methods.base import LossTerm
from didact.rollouts.self_critique_rollout import SampledCritique, branch_id
from didact.training.loop import update
from didact.training.metrics import rollout_metrics, term_metrics
from didact.types import Rollout, Row
from tests.helpers import CRITIC, dialogue, turn


def with_own(main: Rollout, own: float | None, said: str = "hm", *, mentions: bool = False) -> list[Rollout]:
    """A dialogue and the branch with the policy's own critique of its first answer."""
    critique = SampledCritique(
        text=said, source="self", saw_reference=False, provenance=CRITIC, sampled=turn((3,), 9, -1.0, None)
    )
    turns = [main.turns[0].model_copy(update={"logprobs": None})]
    if own is not None:
        revision = turn((4,), 8, -1.0, own)
        turns.append(
            revision.model_copy(update={"text": "As the critique notes, 8."}) if mentions else revision
        )
    return [
        main,
        main.model_copy(update={"id": branch_id(main.id), "turns": tuple(turns), "feedback": (critique,)}),
    ]


def changed(rollout: Rollout, h: int, **values: Any) -> Rollout:
    turns = list(rollout.turns)
    turns[h] = turns[h].model_copy(update=values)
    return rollout.model_copy(update={"turns": tuple(turns)})


# ── rollouts ──────────────────────────────────────────────────────────────────────────────────────


def test_entropy_is_the_mean_surprise_of_sampled_tokens_of_first_answers() -> None:
    long = changed(dialogue(0.0, 1.0), 0, completion_ids=(5, 6, 7), logprobs=(-0.5, -1.0, -1.5))
    given = changed(dialogue(0.0), 0, logprobs=None)
    # Tokens count alike, not answers: (0.5 + 1 + 1.5 + 1) / 4. Revisions (−2 a token) do not count.
    assert rollout_metrics([long, dialogue(0.0, 1.0), given])["entropy"] == pytest.approx(1.0)
    assert "entropy" not in rollout_metrics([given])
    assert rollout_metrics([changed(long, 0, logprobs=(0.0, 0.0, 0.0))])["entropy"] == 0


def test_lengths_and_repeated_text_are_of_each_turn_apart() -> None:
    rollout = changed(dialogue(0.0, 1.0), 0, completion_ids=(5,) * 3, logprobs=(-1.0,) * 3, text="x " * 8)
    found = rollout_metrics([rollout, dialogue(1.0)])
    assert (found["length_first"], found["length_second"]) == (2.0, 1.0)
    assert found["repeated_first"] == pytest.approx(0.4)


def test_the_gain_of_second_turns_counts_those_who_needed_none() -> None:
    mended, stopped, wrong, spoilt = dialogue(0.0, 1.0), dialogue(1.0), dialogue(0.0, 0.0), dialogue(1.0, 0.0)
    assert rollout_metrics([mended, stopped])["second_turn_gain"] == 0.5
    assert rollout_metrics([mended, stopped, wrong, spoilt])["second_turn_gain"] == 0.0
    assert rollout_metrics([spoilt])["second_turn_gain"] == -1.0
    assert "second_turn_gain" not in rollout_metrics([stopped])  # a single turn has no second
    lost = changed(dialogue(0.0, 1.0), 1, reward=None, correct=False)
    assert rollout_metrics([mended, lost, dialogue(0.0, failed=True)])["second_turn_gain"] == 1.0


def test_critiques_are_counted_with_how_many_differ() -> None:
    other = dialogue(0.0, 1.0)
    said = other.feedback[0].model_copy(update={"text": "another"})
    other = other.model_copy(update={"feedback": (said,)})
    found = rollout_metrics([dialogue(0.0, 1.0), dialogue(0.0, 1.0), other, dialogue(0.0, failed=True)])
    assert (found["critiques"], found["distinct_critiques"], found["feedback_failed"]) == (3, 2, 1)
    assert rollout_metrics([dialogue(1.0)])["critiques"] == 0


def test_only_a_method_that_revises_has_answers_unrevised() -> None:
    alone = dialogue(0.0, 1.0)
    alone = alone.model_copy(update={"turns": alone.turns[:1]})
    assert rollout_metrics([alone])["unrevised"] == 1
    assert rollout_metrics([alone], revises=False)["unrevised"] == 0
    made = {name: make_method(name) for name in METHODS}
    revising = {name for name, method in made.items() if method.trains_weights and method.is_multi_turn}
    assert revising == {
        "grpo-2turn",
        "rltf-sd",
        "rltf-fm",
        "rltf",
        "rltf-self",
        "ilf",
        "rl2f",
        "sft-dialogues",
    }
    assert not make_method("ppo", {"reward": "score"}).is_multi_turn


def test_the_two_branches_of_a_dialogue_are_told_apart() -> None:
    rollouts = [
        *with_own(dialogue(0.0, 1.0), 0.0),
        *with_own(dialogue(1.0, 1.0), 0.0, mentions=True),
        *with_own(dialogue(0.0, 1.0, group="h"), None),
        dialogue(0.0, failed=True, group="h"),
    ]
    found = rollout_metrics(rollouts)
    assert found["correct_first"] == 0.25  # of four dialogues, not of seven rollouts
    assert (found["correct_second"], found["correct_second_own"]) == (1.0, 0.0)
    assert found["second_turn_gain"] == pytest.approx(2 / 3)
    assert found["second_turn_gain_own"] == pytest.approx(-1 / 3)
    assert (found["mentions_critique"], found["mentions_critique_own"]) == (0.0, 0.5)
    assert (found["second_turns"], found["critiques"], found["distinct_critiques"]) == (3, 3, 1)
    assert (found["groups_skipped"], found["feedback_failed"], found["unrevised"]) == (1, 1, 1)
    alone = rollout_metrics([r for r in rollouts if not r.id.endswith("/own")])
    assert not [name for name in alone if name.endswith("_own")]
    same = (
        "correct_first",
        "correct_second",
        "second_turn_gain",
        "entropy",
        "length_first",
        "groups_skipped",
    )
    assert {k: alone[k] for k in same} == {k: found[k] for k in same}


# ── are the policy's own critiques true? ──────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    [
        RIGHT, CODE_RIGHT, "Thinking: 2 + 2 = 4.\nCritique: Your previous attempt was correct.",
        "The answer 42 is correct.", "The solution isn't wrong", "Your answer, 'nus', is indeed right.",
        "the ANSWER is fully correct and well explained", "The program passes 6 of 6 tests.",
        "Is the sum right? Yes: the answer is right.", "Your first step is wrong, but the answer is right.",
    ],
)  # fmt: skip
def test_a_critique_that_calls_the_answer_right_is_read_so(text: str) -> None:
    assert stated_verdict(text) is True


@pytest.mark.parametrize(
    "text",
    [
        WRONG, f"{WRONG} It should have 6 characters, not 5. Character 1 should be n.",
        "Your previous attempt was incorrect.", "The answer is not correct.", "Your answer isn’t right.",
        "The answer is partially correct.", "The answer is almost right",
        "the result seems to be wrong in two places",
        "Every step is correct. Your previous attempt was incorrect.", "The program passes 2 of 6 tests.",
        "The answer is wrong because it should be nus",
    ],
)  # fmt: skip
def test_a_critique_that_calls_the_answer_wrong_is_read_so(text: str) -> None:
    assert stated_verdict(text) is False


@pytest.mark.parametrize(
    "text",
    [
        "", "see here", "Is your answer right?", "The answer is right?", "Check whether the answer is wrong.",
        "If the answer is wrong, count again.", "Make sure that the answer is correct.", "Step 2 is wrong.",
        "The answer is right. The answer is wrong.", "The answer is a right angle", "wrong",
        "The answer is long.",
        "The answer is correct up to a sign",
    ],
)  # fmt: skip
def test_a_critique_that_says_neither_or_both_is_no_verdict(text: str) -> None:
    assert stated_verdict(text) is None


def test_calibration_counts_right_and_wrong_answers_apart() -> None:
    rollouts = [
        *with_own(dialogue(0.0, 1.0), 0.0, WRONG),
        *with_own(dialogue(0.0, 1.0), 0.0, RIGHT),
        *with_own(dialogue(0.0, 1.0), 0.0, WRONG),
        *with_own(dialogue(1.0, 1.0), 0.0, RIGHT),
        *with_own(dialogue(1.0, 1.0), 0.0, "hm"),
        *with_own(changed(dialogue(0.0), 0, reward=None), None, WRONG),  # nobody knows
    ]
    expected = {
        "own_verdict_said": 0.8, "own_verdict_true": 0.75, "own_verdict_true_on_right": 1.0,
        "own_verdict_true_on_wrong": pytest.approx(2 / 3),
    }  # fmt: skip
    assert calibration(rollouts) == expected
    found = rollout_metrics(rollouts)
    assert {name: found[name] for name in expected} == expected
    assert calibration([dialogue(0.0, 1.0)]) == {}  # a critic's words are not the policy's


# ── terms ─────────────────────────────────────────────────────────────────────────────────────────

ROW = Row.from_completion((1,), (2, 3))


class ReportingEngine:
    """Says what an engine that compares gradients says."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def forward_backward(self, rows, loss):  # type: ignore[no-untyped-def]
        self.asked.append(loss.name)
        metrics = {"tokens": 4.0, "grad_norm": 2.0 * len(self.asked)}
        if len(self.asked) > 1:
            metrics |= {"cosine": -0.5, "off_policy": 6.0}
        return StepOutput(1.0, metrics)

    def optim_step(self, params):  # type: ignore[no-untyped-def]
        return StepOutput(0.0, {"grad_norm": 3.0})


def test_a_step_logs_each_terms_gradient_and_how_it_lies_to_the_terms_before() -> None:
    terms = [LossTerm("rl", Loss("policy_gradient"), [ROW]), LossTerm("sd", Loss("ppo"), [ROW, ROW])]
    found = update(ReportingEngine(), [terms], AdamParams())  # type: ignore[arg-type]
    assert found == {
        "loss/rl": 1.0, "tokens/rl": 4.0, "grad_norm/rl": 2.0, "rows/rl": 1,
        "loss/sd": 1.0, "tokens/sd": 4.0, "grad_norm/sd": 4.0, "cosine/sd": -0.5, "off_policy/sd": 6.0,
        "off_policy_per_token/sd": 1.5, "rows/sd": 2, "grad_norm": 3.0,
    }  # fmt: skip


def test_without_trained_tokens_there_is_no_divergence_a_token() -> None:
    term = LossTerm("sd", Loss("policy_gradient"), [ROW])
    assert "off_policy_per_token/sd" not in term_metrics(term, StepOutput(0.0, {"off_policy": 0.0}))
    silent = StepOutput(0.0, {"off_policy": 0.0, "tokens": 0.0})
    assert "off_policy_per_token/sd" not in term_metrics(term, silent)
