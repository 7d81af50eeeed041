"""The wrong and the mixed teacher: what they say is false, in the critic's voice, and the same every time."""

from __future__ import annotations

import re

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from didact.build.checks import check_task
from didact.config import parse_config
from didact.controls import controlled
from didact.controls.adversarial_teacher import Mixed
from didact.controls.distractors import make_distractor
from didact.errors import UsageError
from didact.feedback.model_critic import ModelCritic
from didact.feedback.program import RIGHT, WRONG, ProgramCritic
from didact.feedback.puzzle_critic import MISTAKES, PuzzleCritic
from didact.feedback_source import FeedbackRequest, critiques_correct_answers
from didact.leakage import LeakGuard
from didact.methods import make_method
from didact.methods.rl2f import correct_from_turn
from didact.registry import SOURCES
from didact.rng import generator
from didact.tasks import make_task
from didact.tasks.base import Verdict, as_base_task
from didact.tasks.reasoning_gym import ReasoningGymTask
from didact.types import Problem, Rollout, Turn

ANSWERS = st.text("abcdexyz", min_size=1, max_size=8)


def dataset_turn(text: str, correct: bool) -> Turn:
    return Turn(
        prompt_ids=(1,), completion_ids=(2,), logprobs=None, text=text, stop_reason="eos",
        reward=float(correct),
    )  # fmt: skip


def ask(answer: str, reference: str, *, rollout: str | None = None, index: int = 0) -> FeedbackRequest:
    problem = Problem.ask("Spell it.", id="p", reference=reference)
    return FeedbackRequest(problem, dataset_turn(answer, answer == reference), index, rollout=rollout)


def exact(problem: Problem, text: str) -> Verdict:
    return Verdict(float(text == problem.reference), text == problem.reference)


@given(ANSWERS, st.integers(0, 99))
def test_of_a_right_answer_one_right_character_is_called_wrong(answer: str, seed: int) -> None:
    (said,) = controlled(ProgramCritic(), "wrong", seed=seed, verify=exact).critique([ask(answer, answer)])
    found = re.fullmatch(rf"{re.escape(WRONG)} Character (\d+) should be (\S)\.", said.text)
    assert found, said.text
    assert answer[int(found[1]) - 1] != found[2]
    assert said.misleading
    assert said.score is None
    assert (said.provenance.author, said.provenance.control) == ("program:reveal", "wrong")


@given(ANSWERS, ANSWERS, st.integers(0, 99))
def test_of_a_wrong_answer_only_right_characters_are_blamed(answer: str, reference: str, seed: int) -> None:
    if answer == reference:
        return
    for level in ("verdict", "hint", "reveal"):
        (said,) = controlled(ProgramCritic(level), "wrong", seed=seed, verify=exact).critique(
            [ask(answer, reference)]
        )
        places = [int(n) - 1 for n in re.findall(r"(?:Character )(\d+)", said.text)]
        assert said.misleading
        if level == "verdict" or not places:
            assert said.text == RIGHT  # of a wrong answer
            continue
        assert [answer[i] == reference[i] for i in places] == [True]
        assert "It should have" not in said.text
        if level == "reveal":
            assert not said.text.endswith(f"be {reference[places[0]]}.")


def test_words_are_changed_as_words_and_numbers_as_numbers() -> None:
    problem = Problem.ask("List them.", id="p", reference="12 apples 40")
    found = {make_distractor(problem, "12 apples 40", generator(s, "t"), exact) for s in range(40)}
    assert None not in found
    for text in found:
        assert text is not None
        differing = [a for a, b in zip(text.split(), ["12", "apples", "40"], strict=True) if a != b]
        assert len(differing) == 1


def test_only_the_box_is_changed_and_only_the_answer_within_a_longer_text() -> None:
    boxed = Problem.ask("?", id="p", reference=r"\boxed{41}")
    text = r"First 7, then 9. \boxed{41}"
    for s in range(20):
        changed = make_distractor(boxed, text, generator(s, "t"), exact) or ""
        assert changed.startswith(r"First 7, then 9. \boxed{")
        assert changed != text
    plain = Problem.ask("?", id="p", reference="41")
    for s in range(20):
        assert (make_distractor(plain, "It is 41 in sum.", generator(s, "t"), None) or "").startswith(
            "It is "
        )
        assert (make_distractor(plain, "It is 41 in sum.", generator(s, "t"), None) or "").endswith(
            " in sum."
        )


def test_no_decoy_is_right_for_the_verifier() -> None:
    def even(problem: Problem, text: str) -> Verdict:
        right = text[-1] in "02468"
        return Verdict(float(right), right)

    problem = Problem.ask("An even digit?", id="p", reference="4")
    found = {make_distractor(problem, "4", generator(s, "t"), even) for s in range(30)}
    assert found <= {"1", "3", "5", "7", "9", None}
    assert len(found) > 2
    assert make_distractor(problem, "4", generator(0, "t"), lambda p, t: Verdict(1.0, True)) is None


def test_a_sibling_lends_what_stands_at_the_same_place() -> None:
    problem = Problem.ask("?", id="p", reference="left up left")
    found = {
        make_distractor(problem, "left up left", generator(s, "t"), siblings=["down up up"])
        for s in range(30)
    }
    assert found == {"down up left", "left up up"}
    assert (
        make_distractor(problem, "left up left", generator(0, "t"), siblings=["up", "left up left"])
        is not None
    )


def test_who_is_lied_to_depends_on_seed_and_rollout_and_not_on_the_batch() -> None:
    asked = [ask("abc", "abd", rollout=f"r{i}", index=i % 2) for i in range(200)]
    mixed = controlled(ProgramCritic(), {"name": "mixed", "share": 0.3}, seed=1, verify=exact)
    said = mixed.critique(asked)
    backward = mixed.critique(asked[::-1])[::-1]
    assert said == backward
    assert [mixed.critique([one])[0] for one in asked[:9]] == said[:9]
    assert 40 <= sum(f.misleading for f in said) <= 80
    other = controlled(ProgramCritic(), {"name": "mixed", "share": 0.3}, seed=2, verify=exact).critique(asked)
    assert [f.misleading for f in other] != [f.misleading for f in said]
    true = ProgramCritic().critique(asked)
    assert [f for f in said if not f.misleading] == [
        t for t, f in zip(true, said, strict=True) if not f.misleading
    ]


def test_leaks_are_measured_by_the_true_reference() -> None:
    guard = LeakGuard(ProgramCritic(), "fail")
    lied = controlled(guard, "wrong", seed=3, verify=exact)
    said = lied.critique([ask("nut", "nut"), ask("k", "nut")])
    assert [f.leaks for f in said] == [False, False]
    assert isinstance(lied, LeakGuard)


def test_a_guarded_source_still_critiques_correct_answers() -> None:
    guarded = LeakGuard(ProgramCritic())
    assert critiques_correct_answers(controlled(guarded, {"name": "wrong", "after_right": True}))
    assert not critiques_correct_answers(controlled(guarded, "wrong"))
    assert not critiques_correct_answers(None)
    assert critiques_correct_answers(controlled(ProgramCritic(), {"name": "mixed", "after_right": True}))


def test_a_mixed_teacher_tells_some_of_the_right_that_they_are_right() -> None:
    asked = [ask("nus", "nus", rollout=str(i)) for i in range(60)]
    mixed = controlled(ProgramCritic(), Mixed(share=0.5, after_right=True), verify=exact)
    said = mixed.critique(asked)
    assert {f.misleading: f.text == RIGHT for f in said} == {True: False, False: True}


def test_a_model_is_misled_by_a_false_reference() -> None:
    class Chat:
        name = "m"

        def complete(self, requests):  # type: ignore[no-untyped-def]
            from didact.llm.chat import ChatReply

            self.seen = [r.messages[-1].content for r in requests]
            return [ChatReply("Look again.", 3) for _ in requests]

    chat = Chat()
    problem = Problem.ask("Spell it.", id="p", reference="nustrap")
    request = FeedbackRequest(problem, dataset_turn("nusxxxx", False), 0)
    teacher = ModelCritic(chat, "teacher", "teacher_v1", private=True)  # type: ignore[arg-type]
    (said,) = controlled(teacher, "wrong", verify=exact).critique([request])
    assert said.misleading
    assert said.provenance.control == "wrong"
    assert "nustrap" not in chat.seen[0]


def test_what_cannot_be_made_false_fails() -> None:
    everything = controlled(ProgramCritic(), "wrong", verify=lambda p, t: Verdict(1.0, True))
    (said,) = everything.critique([ask("a", "a")])
    assert not said.ok
    assert "'p'" in (said.error or "")
    (said,) = controlled(ProgramCritic(), "wrong").critique(
        [FeedbackRequest(Problem.ask("?", id="p"), dataset_turn("x", False), 0)]
    )
    assert said.text == RIGHT  # without a reference a wrong answer can still be called right


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        Mixed(share=share)


def test_sticking_to_a_right_answer_counts_from_where_it_was_found() -> None:
    def rollout(*right: int) -> Rollout:
        turns = tuple(dataset_turn("x", bool(r)) for r in right)
        return Rollout(id="r", group="g", problem=Problem.ask("?", id="p"), turns=turns)

    assert correct_from_turn(rollout(0, 1, 1, 1)) == 1
    assert correct_from_turn(rollout(1, 0)) is None


@pytest.fixture(scope="module")
def puzzles() -> dict[str, ReasoningGymTask]:
    return {name: make_task(name) for name in MISTAKES}  # type: ignore[misc]


def corrupted(problem: Problem, task: ReasoningGymTask, rng: np.random.Generator) -> str:
    found = make_distractor(problem, problem.reference or "", rng, task.verify)
    assert found is not None
    return found


@pytest.mark.parametrize("name", sorted(MISTAKES))
@pytest.mark.parametrize("level", ["hint", "reveal"])
def test_of_a_puzzle_nothing_that_is_said_is_true(
    name: str, level: str, puzzles: dict[str, ReasoningGymTask]
) -> None:
    task = puzzles[name]
    critic = PuzzleCritic(task, level)
    lied = controlled(critic, "wrong", seed=1, verify=task.verify)
    for problem in task.eval_problems(12):
        right = dataset_turn(problem.reference or "", True)
        assert task.verify(problem, right.text).correct
        (said,) = lied.critique([FeedbackRequest(problem, right, 0)])
        assert said.misleading
        assert said.text.startswith(WRONG)
        assert len(said.text) > len(WRONG)
        wrong = corrupted(problem, task, generator(7, problem.id))
        (said,) = lied.critique([FeedbackRequest(problem, dataset_turn(wrong, False), 0)])
        assert said.misleading
        true = critic.mistakes(problem, wrong)
        assert said.text == RIGHT or not any(sentence in said.text for sentence in true), (wrong, said, true)


@pytest.mark.parametrize("control", ["wrong", "mixed"])
@pytest.mark.parametrize(
    ("source", "task"), [("self", "spell_backward"), ("program", "code"), ("judge:local", "spell_backward")]
)
def test_a_source_that_goes_by_no_reference_cannot_be_misled(control: str, source: str, task: str) -> None:
    config = parse_config({
        "method": "rltf-sd", "task": {"name": task}, "feedback": {"source": source, "control": control},
    })  # fmt: skip
    with pytest.raises(UsageError, match=f"feedback.source={source}"):
        check_task(config, make_method("rltf-sd"), as_base_task(make_task(task)), SOURCES.make(source, {}))


def test_settings_of_the_mixed_teacher_reach_it() -> None:
    control = {"name": "mixed", "share": 0.25, "after_right": True}
    config = parse_config({"method": "rltf-sd", "feedback": {"control": control}})
    assert config.feedback.control == Mixed(share=0.25, after_right=True)
    assert parse_config(yaml.safe_load(config.to_yaml())) == config
    task = as_base_task(make_task("spell_backward"))
    check_task(config, make_method("rltf-sd"), task, SOURCES.make("program", {}))


@pytest.mark.parametrize(
    ("control", "named"),
    [
        ("shufled", "'shuffled'"),
        ({"name": "mixed", "shar": 0.3}, "'share'"),
        ({"name": "mixed", "share": 1.5}, "share"),
        ({"name": "shuffled", "share": 0.3}, "'share'"),
        ({"share": 0.3}, "None"),
    ],
)
def test_a_control_that_does_not_exist_or_has_no_such_setting_is_refused(control: object, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        parse_config({"method": "rltf-sd", "feedback": {"control": control}})
