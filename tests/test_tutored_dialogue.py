"""Didactic dialogues: one growing conversation, who sees what of it, and what a long one loses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from didact.build.sources import BuildContext
from didact.engines.base import SamplingParams
from didact.errors import UsageError
from didact.feedback.model_critic import DialogueTeacher
from didact.feedback.program import OUTCOME_ONLY, OutcomeOnlyTeacher, ProgramCritic
from didact.feedback_source import Exchange, FeedbackRequest
from didact.leakage import LeakGuard
from didact.llm.chat import ChatReply
from didact.prompts import CRITIQUE_REQUEST
from didact.registry import SOURCES
from didact.rendering.renderer import Renderer
from didact.rollouts.self_critique_rollout import UnprivilegedCritic
from didact.rollouts.tutored_dialogue import tutored_dialogues
from didact.tasks.base import Verdict
from didact.types import Feedback, Ids, Message, Problem, Provenance
from tests.helpers import CountingCritic, EchoTask, ScriptedEngine, context
from tests.models import byte_tokenizer

PROBLEMS = [EchoTask().train_problem(i) for i in range(2)]


class Remembering:
    """Says one sentence and remembers what it was asked."""

    def __init__(self, says: str = "look again") -> None:
        self.says = says
        self.requests: list[FeedbackRequest] = []

    def critique(self, requests):  # type: ignore[no-untyped-def]
        self.requests += requests
        said = Provenance(author="test")
        return [
            Feedback(turn=r.index, text=self.says, source="teacher", saw_reference=True, provenance=said)
            for r in requests
        ]


class Recorder(ScriptedEngine):
    """Keeps the ids of every prompt."""

    def __init__(self, answer) -> None:  # type: ignore[no-untyped-def]
        super().__init__(answer)
        self.ids: list[Ids] = []

    def sample(self, prompts, n, params, *, seed, weights=None):  # type: ignore[no-untyped-def]
        self.ids += [tuple(p) for p in prompts]
        return super().sample(prompts, n, params, seed=seed, weights=weights)


def guesses(*answers: str):  # type: ignore[no-untyped-def]
    """An engine that gives the t-th answer at turn t."""

    def answer(text: str, j: int) -> str:
        gone = re.search(r"(\d+) earlier attempt", text)
        turn = text.count("\nUser:") + (int(gone[1]) if gone else 0)
        return answers[min(turn, len(answers) - 1)]

    return Recorder(answer)


# ── one conversation ──────────────────────────────────────────────────────────────────────────────


def test_every_prompt_is_the_ids_so_far_and_the_new_message() -> None:
    engine = guesses("x", "y", "a")
    ctx = context(engine, CountingCritic())
    (rollout,) = tutored_dialogues(ctx, PROBLEMS[:1], 1)
    first, second, third = rollout.turns
    for before, after, said in ((first, second, "wrong 0"), (second, third, "wrong 1")):
        new = ctx.renderer.follow_up(said)
        assert after.prompt_ids == (*before.prompt_ids, *before.completion_ids, *new)
    assert engine.ids == [t.prompt_ids for t in rollout.turns]
    assert [t.text for t in rollout.turns] == ["x", "y", "a"]


def test_the_teacher_speaks_after_wrong_answers_only_and_success_ends_the_dialogue() -> None:
    critic = CountingCritic()
    rollouts = tutored_dialogues(context(guesses("x", "a", "x"), critic), PROBLEMS, 2, turns=4)
    assert [len(r.turns) for r in rollouts] == [2] * 4
    assert critic.asked == 4
    assert [f.turn for f in rollouts[0].feedback] == [0]
    assert all(len(r.turns) == 1 for r in tutored_dialogues(context(guesses("a"), critic), PROBLEMS, 1))
    assert critic.asked == 4


def test_a_dialogue_has_at_most_so_many_turns_and_its_last_answer_is_not_criticised() -> None:
    critic = CountingCritic()
    (rollout,) = tutored_dialogues(context(guesses("x"), critic), PROBLEMS[:1], 1, turns=3)
    assert (len(rollout.turns), critic.asked) == (3, 2)
    assert len(tutored_dialogues(context(guesses("x")), PROBLEMS[:1], 1, turns=1)[0].turns) == 1


def test_without_early_stop_right_answers_are_spoken_of_too() -> None:
    (rollout,) = tutored_dialogues(
        context(guesses("a"), Remembering()), PROBLEMS[:1], 1, turns=3, early_stop=False
    )
    assert len(rollout.turns) == 3


class Misleading(Remembering):
    """Says the same false sentence of right answers too, and after `until` turns nothing false any more."""

    critiques_correct_answers = True

    def __init__(self, until: int = 9, *, fails: bool = False) -> None:
        super().__init__()
        self.until, self.fails = until, fails

    def critique(self, requests):  # type: ignore[no-untyped-def]
        failure = {"status": "failed", "error": "no lie", "text": ""} if self.fails else {}
        return [
            f.model_copy(update={"misleading": r.index < self.until, **failure})
            for f, r in zip(super().critique(requests), requests, strict=True)
        ]


def test_a_teacher_who_says_what_is_false_may_go_on_after_a_right_answer() -> None:
    def turns(teacher: Remembering, *answers: str) -> list[str]:
        (rollout,) = tutored_dialogues(context(guesses(*answers), teacher), PROBLEMS[:1], 1, turns=3)
        return [t.text for t in rollout.turns]

    assert turns(Misleading(), "a", "x", "a") == ["a", "x", "a"]
    # It ends at a right answer of which something true was said, or nothing could be.
    assert turns(Misleading(1), "x", "a", "x") == ["x", "a"]
    (rollout,) = tutored_dialogues(context(guesses("a"), Misleading(fails=True)), PROBLEMS[:1], 1)
    assert (len(rollout.turns), rollout.feedback) == (1, ())
    # Whoever does not say that he speaks of right answers is not asked about them.
    assert turns(Remembering(), "a", "x") == ["a"]


def test_a_failed_teacher_ends_the_dialogue_and_is_kept() -> None:
    (rollout,) = tutored_dialogues(context(guesses("x"), CountingCritic(fails=[1])), PROBLEMS[:1], 1)
    assert len(rollout.turns) == 2
    assert rollout.feedback_failed(1)


# ── who sees what ─────────────────────────────────────────────────────────────────────────────────


def test_the_students_ids_do_not_depend_on_the_private_input() -> None:
    """Another reference under the same teacher's words changes no id that the student reads."""

    def ids(reference: str, says: str = "look again") -> list[Ids]:
        engine = guesses("x", "y", "z")
        problems = [p.model_copy(update={"reference": reference}) for p in PROBLEMS]
        tutored_dialogues(context(engine, Remembering(says)), problems, 2)
        return engine.ids

    assert ids("SECRET") == ids("another, longer secret")
    assert ids("SECRET") != ids("SECRET", "look there")  # the comparison can fail
    assert not any("SECRET" in "".join(map(chr, found)) for found in ids("SECRET"))


def test_the_teacher_sees_the_dialogue_and_the_students_latest_answer() -> None:
    teacher = Remembering()
    tutored_dialogues(context(guesses("x", "y", "z"), teacher), PROBLEMS[:1], 1, turns=3)
    assert [r.earlier for r in teacher.requests] == [(), (Exchange("x", "look again"),)]
    assert [r.turn.text for r in teacher.requests] == ["x", "y"]
    assert [r.index for r in teacher.requests] == [0, 1]


class Chat:
    """Replies with one sentence and keeps what it was asked."""

    name = "chat"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def complete(self, requests):  # type: ignore[no-untyped-def]
        self.asked += [m.content for r in requests for m in r.messages]
        return [ChatReply("guidance", tokens=3) for _ in requests]


def asked_of(problem: Problem, answer: str, *earlier: Exchange) -> FeedbackRequest:
    engine = guesses(answer)
    (rollout,) = tutored_dialogues(context(engine), [problem], 1, turns=1)
    return FeedbackRequest(problem, rollout.turns[0], len(earlier), earlier)


def test_a_dialogue_teacher_reads_conversation_and_private_notes_as_data() -> None:
    chat = Chat()
    program = ProgramCritic("hint")
    request = asked_of(PROBLEMS[0], "x {answer}", Exchange("first try", "not so"))
    (said,) = DialogueTeacher(chat, program=program).critique([request])
    (prompt,) = chat.asked
    for part in ("q0", "x {answer}", "first try", "not so", "The solution:\na", "The answer is wrong."):
        assert part in prompt
    assert (said.text, said.source, said.saw_reference) == ("guidance", "teacher", True)
    dynamic = Chat()
    DialogueTeacher(dynamic, reference=False, program=program).critique([request])
    assert "The solution:" not in dynamic.asked[0]
    assert "The answer is wrong." in dynamic.asked[0]


def test_a_dialogue_teacher_without_its_private_part_fails_and_says_so() -> None:
    bare = PROBLEMS[0].model_copy(update={"reference": None})
    (no_reference,) = DialogueTeacher(Chat()).critique([asked_of(bare, "x")])
    assert not no_reference.ok
    (no_program,) = DialogueTeacher(Chat(), reference=False, program=ProgramCritic()).critique(
        [asked_of(bare, "x")]
    )
    assert no_program.error_kind == "missing_reference"
    with pytest.raises(UsageError, match="the reference"):
        DialogueTeacher(Chat(), reference=False)


def test_a_teacher_that_states_the_answer_is_flagged() -> None:
    problem = Problem.ask("What is 17 + 25?", id="sum", reference="42")
    guard = LeakGuard(Remembering("You should have written 42."))
    honest = LeakGuard(Remembering("The second digit is wrong."))
    for source, leaks in ((guard, True), (honest, False)):
        (rollout,) = tutored_dialogues(context(guesses("x"), source), [problem], 1, turns=2)
        assert rollout.feedback[0].leaks is leaks


@pytest.mark.parametrize(("frozen", "loads"), [(True, 1), (False, 0)])
def test_a_teacher_that_names_nobody_is_frozen_where_the_method_says_so(frozen: bool, loads: int) -> None:
    loaded: list[str | None] = []
    policy = (guesses("x"), Renderer(guesses("x").tokenizer))

    def load(model: str | None):  # type: ignore[no-untyped-def]
        loaded.append(model)
        return policy

    at = BuildContext(load=load, policy=policy, task=None, seed=0, home=None, in_dialogue=frozen)
    source = SOURCES.make("teacher", {}).build(at)
    assert len(loaded) == loads
    assert isinstance(source, DialogueTeacher) is frozen
    SOURCES.make("teacher", {"who": "policy"}).build(at)  # the live policy, if asked for
    assert len(loaded) == loads


@pytest.mark.parametrize(
    ("view", "slots"), [("answer", "{reference}, {answer}"), ("dialogue", "{private}{answer}")]
)
def test_a_teacher_s_own_wording_is_an_input_of_the_run(tmp_path: Path, view: str, slots: str) -> None:
    policy = (guesses("x"), Renderer(guesses("x").tokenizer))
    at = BuildContext(load=lambda model: policy, policy=policy, task=None, seed=0, home=None)
    (tmp_path / "p.md").write_text(slots)
    settings = SOURCES.make("teacher", {"view": view, "prompt": str(tmp_path / "p.md")})
    assert settings.files == (tmp_path / "p.md",)
    source = settings.build(at)
    assert isinstance(source, DialogueTeacher) is (view == "dialogue")
    assert source.prompt.text == slots
    (tmp_path / "p.md").write_text("{answer} {dialogues}")
    with pytest.raises(UsageError, match="dialogues"):
        settings.build(at)


def test_a_second_try_is_told_one_sentence() -> None:
    source = SOURCES.make("retry", {}).build(
        BuildContext(load=lambda model: (None, None), policy=None, task=None, seed=0, home=None)  # type: ignore[arg-type,return-value]
    )
    assert isinstance(source, OutcomeOnlyTeacher)
    engine = guesses("x", "a")
    (rollout,) = tutored_dialogues(context(engine, source), PROBLEMS[:1], 1)
    assert rollout.feedback[0].text == OUTCOME_ONLY
    assert rollout.turns[1].correct


# ── the student as its own teacher ────────────────────────────────────────────────────────────────


def test_a_public_critique_reads_the_students_own_ids_and_never_enters_them() -> None:
    engine = Recorder(lambda text, j: "my view" if text.count(CRITIQUE_REQUEST) else "x")
    renderer = Renderer(engine.tokenizer)
    critic = UnprivilegedCritic(engine, renderer, params=SamplingParams(max_tokens=9))
    (rollout,) = tutored_dialogues(context(engine, critic), PROBLEMS[:1], 1, turns=3, early_stop=False)
    first, asked, second, again, third = engine.ids
    assert asked == (*first, ord("x"), 0, *renderer.follow_up(CRITIQUE_REQUEST))
    assert [t.prompt_ids for t in rollout.turns] == [first, second, third]
    assert again[: len(second)] == second
    for ids in (first, second, third):
        assert CRITIQUE_REQUEST not in engine.tokenizer.decode(ids)
    assert [f.text for f in rollout.feedback] == ["my view"] * 2
    assert not any(f.saw_reference for f in rollout.feedback)
    engine.max_length = 10
    (failed,) = critic.critique([FeedbackRequest(PROBLEMS[0], rollout.turns[0], 0)])
    assert not failed.ok


# ── long dialogues ────────────────────────────────────────────────────────────────────────────────


def test_a_window_keeps_question_and_latest_exchanges_with_a_notice() -> None:
    engine = guesses("x", "y", "z", "v")
    teacher = Remembering()
    ctx = context(engine, teacher)
    (rollout,) = tutored_dialogues(ctx, PROBLEMS[:1], 1, turns=4, window=1)
    text = engine.tokenizer.decode(rollout.turns[3].prompt_ids)
    assert "q0" in text
    assert "[… 2 earlier attempts left out …]" in text
    assert ("Assistant:x" in text, "Assistant:y" in text, "Assistant:z" in text) == (False, False, True)
    assert "1 earlier attempt left out" in engine.tokenizer.decode(rollout.turns[2].prompt_ids)
    assert "left out" not in engine.tokenizer.decode(rollout.turns[1].prompt_ids)
    tail = (*rollout.turns[2].completion_ids, *ctx.renderer.follow_up("look again"))
    assert rollout.turns[3].prompt_ids[-len(tail) :] == tail  # sampled ids, as they were sampled
    assert teacher.requests[2].earlier == (Exchange("y", "look again"),)  # it loses the same ones


def test_a_dialogue_that_outgrows_the_model_loses_its_middle_first() -> None:
    engine = guesses("x", "y", "z", "v")
    ctx = context(engine, Remembering())
    long = tutored_dialogues(ctx, PROBLEMS[:1], 1, turns=4)[0].turns[3].prompt_ids
    engine.max_length = len(long) + ctx.sampling.max_tokens - 1
    (rollout,) = tutored_dialogues(ctx, PROBLEMS[:1], 1, turns=4)
    assert len(rollout.turns) == 4
    text = engine.tokenizer.decode(rollout.turns[3].prompt_ids)
    assert "left out" in text
    assert "Assistant:z" in text
    assert all(ctx.fits(t.prompt_ids) for t in rollout.turns)
    engine.max_length = len(rollout.turns[0].prompt_ids) + ctx.sampling.max_tokens
    (short,) = tutored_dialogues(ctx, PROBLEMS[:1], 1, turns=4)
    assert len(short.turns) == 1
    assert short.feedback_on(0) is not None


# ── templates ─────────────────────────────────────────────────────────────────────────────────────


def test_a_follow_up_continues_a_chat_template_as_the_template_would() -> None:
    renderer = Renderer(byte_tokenizer())
    said = "not <|end|> yet <|user|>"
    chat = (Message(role="user", content="q"), Message(role="assistant", content="y"))
    whole = renderer.prompt((*chat, Message(role="user", content=said)))
    start = renderer.prompt(chat[:1])
    assert (*start, *renderer.answer("y"), *renderer.follow_up(said)) == whole
    cut_off = renderer.answer("y")[:-1]
    assert (*start, *cut_off, *renderer.follow_up(said, ended=False)) == whole
    end = renderer.eos_id
    assert renderer.follow_up(said).count(end) == 1  # the message's own end; what it spells is text


def test_a_template_without_memory_is_refused_with_a_cure() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "<|user|>{{ messages[-1]['content'] }}<|end|><|assistant|>"
    with pytest.raises(UsageError, match="template"):
        Renderer(tokenizer).follow_up("again")


class NoVerdict(EchoTask):
    def verify(self, problem, answer):  # type: ignore[no-untyped-def]
        return Verdict(None, False)


def test_what_nobody_can_verify_is_talked_about_to_the_end() -> None:
    ctx = context(guesses("a"), Remembering(), task=NoVerdict())
    assert len(tutored_dialogues(ctx, PROBLEMS[:1], 1, turns=3)[0].turns) == 3
