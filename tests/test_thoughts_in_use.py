"""Thoughts in every convention, from policies, judges and servers: hard cases."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.build.components import make_critic
from didact.build.sources import BuildContext
from didact.config import RunConfig
from didact.engines.base import SamplingParams
from didact.feedback.judge import Judge, make_judge
from didact.feedback.model_critic import DialogueTeacher, ModelCritic
from didact.feedback.program import ProgramCritic
from didact.feedback_source import FeedbackRequest
from didact.leakage.guard import LeakGuard
from didact.llm.chat import ChatReply, ChatRequest
from didact.llm.openai_chat import OpenAIChat, OpenAISettings
from didact.rollouts.base import first_turns, single_turn
from didact.rollouts.engine_chat import EngineChat
from didact.rollouts.multi_turn import two_turn
from didact.rollouts.self_critique_rollout import (
    UnprivilegedCritic,
    self_critique_branches,
)
from didact.rollouts.tutored_dialogue import tutored_dialogues
from didact.tasks.base import Verdict, verify_turns
from didact.tasks.verifiers import make_verifier
from didact.thoughts import answer_start, answer_text, opens_thoughts
from didact.types import Problem, Turn
from tests.helpers import EchoTask, ScriptedEngine, context, task_of

PAIRS = [
    ("<think>", "</think>"),
    ("<Think>", "</THINK>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<reason>", "</reason>"),
    ("<reflection>", "</reflection>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<seed:think>", "</seed:think>"),
    ("<antThinking>", "</antThinking>"),
    ("<|think|>", "<|/think|>"),
    ("<inner_monologue>", "</inner_monologue>"),
    ("<chain_of_thought>", "</chain_of_thought>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>\n\n<|begin_of_solution|>"),
    ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    (
        "<|start|>assistant<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>",
    ),
    ("Here is my thought process:", "Here is my response:"),
    ("analysis", "assistantfinal"),
]
SOFT = PAIRS[-1:]


def answer(text: str, open_in_prompt: bool = False) -> str | None:
    start = answer_start(text, opened=open_in_prompt)
    return None if start is None else answer_text(text, start)


# ── where thoughts end ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("opens", "closes"), PAIRS)
def test_what_follows_the_thoughts_is_the_answer(opens: str, closes: str) -> None:
    for text in (f"{opens}7{closes}\n\ncba", f"\n {opens}7{closes}cba", f"{opens} {closes} cba"):
        assert answer(text.replace(" ", "") if (opens, closes) in SOFT else text) == "cba"


@pytest.mark.parametrize(("opens", "closes"), PAIRS)
def test_thoughts_that_do_not_end_leave_no_answer(opens: str, closes: str) -> None:
    text = f"{opens}It is \\boxed{{5}}. The answer is 5"
    assert answer(text) == (text if (opens, closes) in SOFT else None)


@pytest.mark.parametrize(
    ("opens", "closes"), [pair for pair in PAIRS[:-2] if "thi" in pair[0].lower() or pair[0][1] == "|"]
)
def test_a_prompt_may_open_the_thoughts(opens: str, closes: str) -> None:
    assert answer(f"Is it 7?{closes}\n\ncba", True) == "cba"
    assert answer(f"Is it 7?{closes}\n\ncba") == "cba"  # a server does not show its prompt
    assert answer("Is it 7?", True) is None
    prompt = f"<|im_start|>assistant\n{opens}\n"
    assert opens_thoughts(prompt)
    assert not opens_thoughts(f"{opens}\n\n{closes}\n\n")


def test_tags_of_prompts_close_thoughts_only_where_they_are_open() -> None:
    assert answer("5</reasoning>6") == "5</reasoning>6"
    assert answer("5</reasoning>6", True) == "6"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("<think>a <think>b</think> c</think> 5", "5"),
        ("<think>the tag <think> opens thoughts</think> 5", "5"),
        ("<think>I close with `</think>` and go on</think>5", "5"),
        ("<think>a</think>\n<think>b</think>\n<reasoning>c</reasoning>\n5", "5"),
        ("a</think><think>b</think>5", "5"),
        ("<think>a</think></think>5", "5"),
        ("<think>a</think><think>b", None),
        ("<think>a <reasoning>b</reasoning> 5", None),
        ("<think>a</think>\n\n    return x\n", "    return x\n"),
        ("<think>a</think>", ""),
        ("<think>\n\n</think>\n\n", ""),
        ('He wrote "5"</think>6', "6"),
    ],
)
def test_blocks(text: str, wanted: str | None) -> None:
    assert answer(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cba",
        " cba",
        "The tags <think> and </think> stand around thoughts.",
        "Close with `</think>`.",
        'Close with "</think>".',
        "```html\n</think>\n```\nDone.",
        "```\n<think>a</think>\n```",
        "`<think>` opens thoughts",
        "5 <think>or 6?</think>",
        "analysis of the result: 5",
        "Analysis: 5",
        "I think <thin> is a word",
    ],
)
def test_an_ordinary_answer_stays_whole(text: str) -> None:
    assert answer_start(text) == 0


def test_a_prompt_that_opens_thoughts_which_the_reply_opens_again() -> None:
    assert answer("<think>a</think>5", True) == "5"
    assert answer("x `</think>` y</think>5", True) == "5"


WORDS = st.lists(
    st.sampled_from(["a", " ", "\n", "`", "```", '"', "5", *(tag for pair in PAIRS for tag in pair)]),
    max_size=12,
).map("".join)


@given(WORDS, st.booleans())
def test_any_text_is_split(text: str, opened: bool) -> None:
    start = answer_start(text, opened=opened)
    assert start is None or 0 <= start <= len(text)
    if start and text[start : start + 1].isspace():
        assert "\n" in text[:start]  # the indentation of a line


@given(WORDS, st.sampled_from([pair for pair in PAIRS if pair not in SOFT]))
def test_a_thought_without_tags_is_cut_at_its_end(words: str, pair: tuple[str, str]) -> None:
    if any(tag in words for one in PAIRS for tag in one) or "assistantfinal" in words:
        words = ""
    assert answer(f"{pair[0]}{words}{pair[1]}\ncba") == "cba"


@pytest.mark.parametrize(
    "piece", ["<think>", "</think>", "<think></think>", "`</think>", "<", "<think><reason>", "analysisx", " "]
)
def test_the_work_grows_with_the_text(piece: str) -> None:
    """A quadratic search of these would not end."""
    for opened in (False, True):
        start = answer_start(piece * 30_000, opened=opened)
        assert start is None or start <= len(piece) * 30_000


# ── the policy ────────────────────────────────────────────────────────────────────────────────────


def given_turn(text: str, **fields: Any) -> Turn:
    return Turn(prompt_ids=(1,), completion_ids=(2,), logprobs=None, text=text, stop_reason="eos", **fields)


def test_a_turn_knows_its_answer() -> None:
    turn = given_turn("<think>a</think>\n\ncba")
    assert (turn.answer, turn.answer_from, turn.only_thoughts) == ("cba", 18, False)
    assert Turn.model_validate_json(turn.model_dump_json()) == turn
    assert given_turn("<think>a").only_thoughts
    assert given_turn("<think>a").answer == ""
    assert not given_turn("").only_thoughts
    opened = given_turn("5", answer_from=1)
    assert Turn.model_validate_json(opened.model_dump_json()).answer == ""


@pytest.mark.parametrize("verifier", ["exact", "numeric", {"name": "regex", "pattern": "5"}])
@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("<think>9</think>\n\n5", 1.0),
        ("<think>It is 5</think>\n\n9", 0.0),
        ("<think>It is \\boxed{5}", 0.0),
        ("[THINK]5[/THINK]", 0.0),
    ],
)
def test_verifiers_read_the_answer_alone(verifier: Any, text: str, reward: float) -> None:
    verify = make_verifier(verifier).verify

    class Task(EchoTask):
        def verify(self, problem: Problem, answer: str) -> Verdict:
            return verify(answer, "5", {})

    problem = Problem.ask("?", id="p", reference="5")
    assert verify_turns(Task(), [(problem, given_turn(text))])[0].reward == reward


def test_a_box_in_the_thoughts_is_no_answer() -> None:
    task = task_of("math")
    problem = task.eval_problems(1)[0]
    boxed = f"\\boxed{{{problem.reference}}}"
    texts = (f"<think>{boxed}", f"<think>{boxed}</think> I do not know.", f"<think>0</think> {boxed}")
    found = verify_turns(task, [(problem, given_turn(text)) for text in texts])
    assert [v.reward for v in found] == [0.0, 0.0, 1.0]


def test_no_answer_is_never_right() -> None:
    class Lenient(EchoTask):
        def verify(self, problem: Problem, answer: str) -> Verdict:
            return Verdict(1.0, True) if "7" not in answer else Verdict(-1.0, False)

    class Unverified(EchoTask):
        def verify(self, problem: Problem, answer: str) -> Verdict:
            return Verdict(None, False)

    problem = Problem.ask("?", id="p")
    turns = [(problem, given_turn(text)) for text in ("<think>7", "<think>7</think>8", "")]
    assert [v.reward for v in verify_turns(Lenient(), turns)] == [0.0, 1.0, 1.0]
    assert not verify_turns(Lenient(), turns)[0].correct
    assert [v.reward for v in verify_turns(Unverified(), turns)] == [None, None, None]


def test_sampled_answers_are_scored_without_thoughts() -> None:
    engine = ScriptedEngine(lambda prompt, j: ["<think>b</think>\n\na", "<think>a", "a"][j])
    rollouts = single_turn(context(engine), [Problem.ask("q", id="0", reference="a")], 3)
    turns = [r.turns[0] for r in rollouts]
    assert [t.reward for t in turns] == [1.0, 0.0, 1.0]
    assert turns[0].text == "<think>b</think>\n\na"
    assert len(turns[0].completion_ids) == len(turns[0].text) + 1  # trained as sampled


# ── later prompts ─────────────────────────────────────────────────────────────────────────────────


class Recorder:
    """A feedback source that keeps what it was shown."""

    def __init__(self) -> None:
        self.seen: list[FeedbackRequest] = []

    def critique(self, requests: Any) -> Any:
        self.seen += requests
        return [r.reply("no", author="x", saw_reference=False) for r in requests]


def test_later_prompts_have_answers_without_thoughts() -> None:
    problem = Problem.ask("q", id="0", reference="a")
    for collect in (two_turn, tutored_dialogues):
        engine = ScriptedEngine(lambda prompt, j: "<think>secret</think>\n\nbcd")
        source = Recorder()
        (rollout,) = collect(context(engine, LeakGuard(source)), [problem], 1)
        assert len(rollout.turns) > 1
        assert rollout.turns[0].text.startswith("<think>secret")
        assert all("secret" not in prompt for prompt in engine.prompts)
        assert "bcd" in engine.prompts[-1]
        assert all("secret" not in r.turn.text for r in source.seen)
        assert all("secret" not in a for r in source.seen for a, _ in r.earlier)


def test_unfinished_thoughts_are_an_empty_answer_in_later_prompts() -> None:
    engine = ScriptedEngine(lambda prompt, j: "<think>secret")
    (rollout,) = tutored_dialogues(context(engine, Recorder()), [Problem.ask("q", id="0", reference="a")], 1)
    assert len(rollout.turns) == 4
    assert all("secret" not in prompt for prompt in engine.prompts)


# ── critics ───────────────────────────────────────────────────────────────────────────────────────


class Chat:
    """Replies in turn, and keeps the requests."""

    name = "chat"

    def __init__(self, *replies: str) -> None:
        self.replies, self.asked = list(replies), []

    def complete(self, requests: Any) -> list[ChatReply]:
        self.asked += requests
        return [ChatReply(self.replies.pop(0), tokens=3) for _ in requests]


def about(text: str) -> FeedbackRequest:
    return FeedbackRequest(Problem.ask("Spell abc backward", id="p", reference="cba"), given_turn(text), 0)


THOUGHTS = "<think>The reference is cba.</think>\n\n"


@pytest.mark.parametrize(("opens", "closes"), PAIRS)
def test_a_critique_is_what_follows_the_thoughts(opens: str, closes: str) -> None:
    reply = f"{opens}The reference is cba.{closes}\n\nLook again."
    for critic in (
        ModelCritic(Chat(reply)),
        ModelCritic(Chat(reply), "teacher", "teacher_v1", private=True),
        make_judge(Chat(reply), "text"),
        DialogueTeacher(Chat(reply)),
        DialogueTeacher(Chat(reply), program=ProgramCritic()),
    ):
        (feedback,) = critic.critique([about("abc")])
        assert feedback.ok
        assert feedback.text == "Look again."


@pytest.mark.parametrize(
    "reply", ["<think>The reference is cba.", "<think>cba</think>", "<think>\n</think>\n"]
)
def test_thoughts_without_a_critique_are_a_failed_feedback(reply: str) -> None:
    for critic in (ModelCritic(Chat(reply)), DialogueTeacher(Chat(reply))):
        (feedback,) = critic.critique([about("abc")])
        assert not feedback.ok
        assert feedback.text == ""
        assert feedback.score is None
        assert feedback.error_kind == "invalid_reply"
        assert feedback.provenance.tokens == 3


def test_the_verdict_is_the_json_behind_the_thoughts() -> None:
    def verdict(score: int, label: str) -> str:
        return json.dumps({"critique": "Look again.", "score": score, "label": label, "spans": []})

    chat = Chat(f"<think>{verdict(10, 'right')}</think>{verdict(2, 'wrong')}")
    (feedback,) = Judge(chat).critique([about("abc")])
    assert (feedback.score, feedback.label, feedback.text) == (0.2, "wrong", "Look again.")
    (failed,) = Judge(Chat(f"<think>{verdict(10, 'right')}")).critique([about("abc")])
    assert not failed.ok
    assert failed.score is None


def guarded(source: Any, requests: Any) -> Any:
    return LeakGuard(source).critique(requests)


def direct(source: Any, requests: Any) -> Any:
    return source.critique(requests)


@pytest.mark.parametrize("ask", [direct, guarded])
def test_spans_are_those_of_the_whole_text(ask: Any) -> None:
    text = f"{THOUGHTS}abc"
    spans = [{"quote": "b", "label": "good", "phrase": ""}]
    reply = json.dumps({"critique": "b", "score": 2, "label": "wrong", "spans": spans})
    (found,) = ask(Judge(Chat(reply)), [about(text)])
    (span,) = found.spans
    assert text[span.start : span.end] == "b"
    assert span.start == len(THOUGHTS) + 1
    (found,) = ask(ProgramCritic(), [about(text)])
    assert found.spans
    assert all(text[s.start : s.end] == s.quote and s.start >= len(THOUGHTS) for s in found.spans)


@pytest.mark.parametrize("whole", [False, True])
def test_a_model_sees_the_thoughts_only_if_asked(whole: bool) -> None:
    text = f"{THOUGHTS}abc"
    spans = [{"quote": q, "label": "good", "phrase": ""} for q in ("reference", "abc")]
    chat = Chat(json.dumps({"critique": "b", "score": 2, "label": "wrong", "spans": spans}))
    (feedback,) = LeakGuard(Judge(chat), thoughts=whole).critique([about(text)])
    shown = "".join(m.content for m in chat.asked[0].messages)
    assert ("The reference is cba." in shown) == whole
    assert all(text[s.start : s.end] == s.quote for s in feedback.spans)
    assert [s.quote for s in feedback.spans] == (["reference", "abc"] if whole else ["abc"])


def test_programs_read_the_answer_alone() -> None:
    config = RunConfig.model_validate(
        {
            "method": "rltf",
            "task": {"name": "math"},
            "feedback": {"source": "program", "thoughts": True},
        }
    )
    source = make_critic(config, BuildContext(lambda path: None, None, None, 0, None))  # type: ignore[arg-type, return-value]
    (found,) = source.critique([about(f"{THOUGHTS}abc")])
    assert found.text == ProgramCritic().critique([about("abc")])[0].text


def test_an_engine_as_judge() -> None:
    for reply, text in ((f"{THOUGHTS}Look again.", "Look again."), ("<think>cba", None)):
        chat = EngineChat(ScriptedEngine(lambda p, j, reply=reply: reply), context().renderer)
        (got,) = chat.complete([ChatRequest(Problem.ask("q", id="0").messages)])
        assert (got.text, got.error is None) == (text or "", text is not None)


def test_self_critics() -> None:
    problem = Problem.ask("q", id="0", reference="a")

    def speak(reply: str) -> Any:
        return lambda prompt, j: "<think>secret</think>b" if prompt.endswith("q\nAssistant:") else reply

    for reply, text in ((f"{THOUGHTS}Look again.", "Look again."), ("<think>cba", None)):
        ctx = context(ScriptedEngine(speak(reply)))
        rollouts = first_turns(ctx, [problem], 1)
        (branch,) = self_critique_branches(ctx, rollouts, max_tokens=50)
        critic = UnprivilegedCritic(ctx.engine, ctx.renderer, SamplingParams(max_tokens=50))
        (public,) = critic.critique([FeedbackRequest(problem, rollouts[0].turns[0], 0)])
        for feedback in (branch.feedback[0], public):
            assert feedback.ok == (text is not None)
            assert feedback.text == (text or "")
        assert len(branch.turns) == (1 if text is None else 2)
        assert all("secret" not in prompt for prompt in ctx.engine.prompts)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "Look again.", "reasoning_content": "cba"}, "Look again."),
        ({"content": "Look again.", "reasoning": "cba"}, "Look again."),
        ({"content": "<think>cba</think>\nLook again."}, "Look again."),
        ({"content": "cba</think>\nLook again."}, "Look again."),
        ({"content": [{"type": "text", "text": "Look "}, {"type": "text", "text": "again."}]}, "Look again."),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "cba"}], "closed": True},
                    {"type": "text", "text": "Look again."},
                ]
            },
            "Look again.",
        ),
        (
            {"content": [{"type": "reasoning", "text": "cba"}, {"type": "text", "text": "Look again."}]},
            "Look again.",
        ),
        ({"content": [{"type": "output_text", "text": "Look again.", "annotations": []}]}, "Look again."),
        ({"content": None, "reasoning_content": "cba"}, None),
        ({"content": "<think>cba"}, None),
        ({"content": [{"type": "thinking", "thinking": "cba"}]}, None),
        ({"content": "<think>cba</think>"}, None),
    ],
)
def test_what_servers_send(message: dict[str, Any], text: str | None) -> None:
    chat = OpenAIChat(OpenAISettings(base_url="http://127.0.0.1:1/v1", model="m", api_key_env=None))
    response = json.dumps(
        {"choices": [{"message": {"role": "assistant", **message}, "finish_reason": "stop"}]}
    )
    request = ChatRequest(Problem.ask("q", id="0").messages)
    reply = chat.read(request, response)
    if text is not None:
        assert (reply.text, reply.error) == (text, None)
    else:
        assert reply.text == ""
        assert "cba" not in (reply.error or "")
        assert reply.error_kind == "invalid_reply"
