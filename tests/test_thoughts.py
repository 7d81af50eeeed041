"""Only what follows a model's thoughts is its answer, its critique or its verdict."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.engines.base import SamplingParams
from didact.feedback.judge import Judge
from didact.feedback_source import FeedbackRequest
from didact.leakage.guard import LeakGuard
from didact.llm.chat import ChatRequest
from didact.llm.openai_chat import Completion
from didact.rendering.renderer import Renderer
from didact.rollouts.base import dataset_turn, single_turn
from didact.rollouts.engine_chat import EngineChat
from didact.rollouts.multi_turn import multi_turn
from didact.rollouts.self_critique_rollout import UnprivilegedCritic, critique_prompt, self_critique_branches
from didact.rollouts.tutored_dialogue import tutored_dialogues
from didact.thoughts import answer_of, answer_start, opens_thoughts
from didact.types import Feedback, Message, Problem, Span, Turn
from tests.helpers import CRITIC, CountingCritic, EchoTask, ScriptedEngine, context
from tests.models import byte_level

HARMONY = (
    "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=x<|message|>y<|end|>"
    "<|start|>assistant<|channel|>final<|message|>"
)
BEFORE = [
    "<think>hm</think>", "<think>\nhm\n</think>\n\n", "  <think>hm</think> ", "<thinking>hm</thinking>",
    "<THOUGHT>hm</THOUGHT>\n", "<reasoning>hm</reasoning>", "<scratchpad>1\n2</scratchpad>",
    "[THINK]hm[/THINK]",
    "<seed:think>hm</seed:think>", "◁think▷hm◁/think▷", "<|START_THINKING|>hm<|END_THINKING|>",
    "<|begin_of_thought|>hm<|end_of_thought|>\n\n<|begin_of_solution|>", HARMONY,
    "<|channel>thought\nhm<channel|>",
    "Here is my thought process: hm\nHere is my response:\n", "<think></think>", "<think>\n\n</think>\n\n",
    "<think>a</think>\n<think>b</think>", "<think>a <think>b</think> c</think>",
    "hm, \\boxed{4}\n</think>\n\n",
    "<think>the tag <think> opens them</think>", "<think>5</think><reflection>6</reflection> ",
]  # fmt: skip
UNFINISHED = [
    "<think>5", "<think>", " \n<think>the answer is \\boxed{5}.", "[THINK]5",
    "<|channel|>analysis<|message|>5",
    "<think>a</think><think>5", "Here is my thought process: 5", "<thinking>5</answer>",
]  # fmt: skip
PLAIN = [
    "5", "", " 5 ", "I think 5", "5 <think>no block at the start</think>", "`<think>` opens a block", "a < b",
    "Here is my response: 5", "think>5", "<thinker>5</thinker>", "# <think>\n5",
]  # fmt: skip


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("answer", ["cba", "5 <think>x</think>", "x </b> y", "The answer is \\boxed{5}."])
def test_the_answer_is_what_follows(before, answer):
    assert answer_of(before + answer) == answer


@pytest.mark.parametrize("text", UNFINISHED)
def test_thoughts_that_never_end_have_no_answer(text):
    assert answer_start(text) is None
    assert answer_of(text) is None


@pytest.mark.parametrize("text", PLAIN)
def test_an_answer_without_thoughts_is_whole(text):
    assert answer_start(text) == 0


def test_a_prompt_may_have_opened_them():
    assert answer_start("hm</think>\n5", opened=True) == 11
    assert answer_start("hm", opened=True) is None
    assert opens_thoughts("<|assistant|>\n<think>\n")
    assert opens_thoughts("[THINK]")
    assert not opens_thoughts("<|assistant|>\n")
    assert not opens_thoughts("<think>\n\n</think>\n\n")


@given(st.text("<think>/ hm5\n[]TIHNK|", max_size=60), st.booleans())
def test_any_text_has_one_place_where_its_answer_begins(text, opened):
    start = answer_start(text, opened=opened)
    assert start is None or 0 <= start <= len(text)
    if start:
        assert answer_start("<think>" + text[:start] + "</think>" + "x") is not None


# ── the policy ──────────────────────────────────────────────────────────────────────────────────────


def policy(text: str):
    return ScriptedEngine(lambda prompt, j: text)


@pytest.mark.parametrize(("text", "reward"), [
    ("<think>hm</think>\n\na", 1.0), ("<think>a", 0.0), ("<think>a</think>b", 0.0), ("a", 1.0),
])  # fmt: skip
def test_the_verifier_reads_the_answer_alone(text, reward):
    ctx = context(policy(text))
    (rollout,) = single_turn(ctx, [EchoTask().train_problem(0)], 1)
    turn = rollout.turns[0]
    assert (turn.reward, turn.text) == (reward, text)
    assert turn.answer == (answer_of(text) or "")
    assert len(turn.completion_ids) == len(text) + 1  # trained as sampled
    given_ = dataset_turn(ctx, EchoTask().train_problem(0), (1,), text)
    assert (given_.reward, given_.answer) == (reward, turn.answer)


def test_the_next_turn_has_the_answer_alone():
    problem = EchoTask().train_problem(0)
    for collect in (multi_turn, tutored_dialogues):
        engine = policy("<think>SECRET 7</think>\n\nb")
        collect(context(engine, CountingCritic()), [problem], 1, turns=2)
        assert len(engine.prompts) == 2
        assert "SECRET" not in engine.prompts[1]
        assert "b" in engine.prompts[1]
        assert "wrong 0" in engine.prompts[1]


class Marking:
    """Marks all that it is shown."""

    def __init__(self):
        self.shown = []

    def critique(self, requests):
        self.shown += [r.turn.text for r in requests]
        return [
            r.reply("no", author="m", saw_reference=False, spans=[
                Span(start=0, end=len(r.turn.text), quote=r.turn.text, label="poor")
            ])
            for r in requests
        ]  # fmt: skip


def request(text: str) -> FeedbackRequest:
    start = answer_start(text)
    turn = Turn(
        prompt_ids=(1,), completion_ids=(2,), logprobs=None, text=text, stop_reason="eos",
        answer_from=len(text) if start is None else start,
    )  # fmt: skip
    return FeedbackRequest(EchoTask().train_problem(0), turn, 0)


def test_a_critic_is_shown_thoughts_only_if_asked():
    asked = request("<think>a</think> b5")
    source = Marking()
    (found,) = LeakGuard(source).critique([asked])
    assert source.shown == ["b5"]
    (span,) = found.spans
    assert (span.start, span.end, span.quote) == (17, 19, "b5")
    assert asked.turn.text[span.start : span.end] == span.quote
    (whole,) = LeakGuard(source, thoughts=True).critique([asked])
    assert source.shown[-1] == asked.turn.text
    assert whole.spans[0].start == 0


# ── judges, teachers and self-critics ───────────────────────────────────────────────────────────────


def chat(text: str) -> EngineChat:
    engine = policy(text)
    return EngineChat(engine, Renderer(engine.tokenizer), params=SamplingParams(max_tokens=99))


def ask(model):
    (reply,) = model.complete([ChatRequest((Message(role="user", content="?"),))])
    return reply


def test_an_engines_reply_has_no_thoughts():
    assert ask(chat("<think>the reference is 7</think>\n\nToo small.")).text == "Too small."
    unfinished = ask(chat("<think>the reference is 7"))
    assert (unfinished.text, unfinished.error_kind) == ("", "invalid_reply")
    assert unfinished.error is not None


def test_a_verdict_in_the_thoughts_is_none():
    verdict = '{"critique": "Wrong.", "score": 1, "label": "wrong", "spans": []}'
    other = verdict.replace("Wrong.", "Right.")
    (found,) = Judge(chat(f"<think>{other}</think>{verdict}")).critique([request("b")])
    assert found.text == "Wrong."
    (failed,) = Judge(chat(f"<think>{verdict}")).critique([request("b")])
    assert not failed.ok
    assert failed.text == ""


def completion(**message) -> Completion:
    return Completion.model_validate({"choices": [{"message": message, "finish_reason": "stop"}]})


@pytest.mark.parametrize(
    "message",
    [
        {"content": "Too small."},
        {"content": "<think>it is 7</think>\n\nToo small."},
        {"content": "it is 7</think>Too small."},
        {"content": "Too small.", "reasoning_content": "it is 7"},
        {"content": "Too small.", "reasoning": "it is 7"},
        {"content": [{"type": "thinking", "thinking": "7"}, {"type": "text", "text": "Too small."}]},
        {"content": [{"type": "reasoning", "text": "7"}, {"type": "output_text", "text": "Too small."}]},
        {"content": [{"type": "text", "text": "<think>7</think>"}, {"type": "text", "text": "Too small."}]},
        {"content": [{"text": "Too "}, {"text": "small."}]},
    ],
    ids=str,
)
def test_a_servers_reply_has_no_thoughts(message):
    reply = completion(**message)
    assert (reply.text, reply.failure) == ("Too small.", None)


@pytest.mark.parametrize(
    "message",
    [
        {"content": "<think>it is 7"},
        {"content": "<think>it is 7</think>"},
        {"content": None, "reasoning_content": "it is 7"},
        {"content": [{"type": "thinking", "thinking": "7"}]},
    ],
    ids=str,
)
def test_a_reply_of_thoughts_alone_has_failed(message):
    reply = completion(**message)
    assert reply.text == ""
    assert reply.failure is not None


def test_a_self_critics_thoughts_are_not_its_critique():
    turn = request("b").turn
    for text, ok, said in (
        ("<think>7</think>Too small.", True, "Too small."),
        ("<think>7", False, ""),
        ("", True, ""),
    ):
        engine = policy(text)
        critic = UnprivilegedCritic(engine, Renderer(engine.tokenizer), SamplingParams(max_tokens=99))
        (found,) = critic.critique([FeedbackRequest(EchoTask().train_problem(0), turn, 0)])
        assert (found.ok, found.text) == (ok, said)
        ctx = context(engine)
        first = single_turn(ctx, [EchoTask().train_problem(0)], 1)
        (own,) = self_critique_branches(ctx, first, max_tokens=99)
        assert (own.feedback[0].ok, own.feedback[0].text) == (ok, said)
        assert len(own.turns) == (2 if ok else 1)


# ── tokenizers and templates ────────────────────────────────────────────────────────────────────────

OPENING = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)


def tokenizer(template: str, *special: str):
    tok = byte_level(eos_token="<|end|>", pad_token="<|pad|>")
    tok.add_special_tokens(
        {"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|system|>", *special]}
    )
    tok.chat_template = template
    return tok


def turn_of(renderer: Renderer, prompt, text: str) -> Turn:
    ids = (*renderer.tokenizer.encode(text, add_special_tokens=False), renderer.eos_id)
    shown = renderer.text(ids)
    return Turn(
        prompt_ids=prompt, completion_ids=ids, logprobs=None, text=shown, stop_reason="eos",
        answer_from=renderer.answer_from(ids, shown),
    )  # fmt: skip


def test_a_template_that_opens_thoughts():
    renderer = Renderer(tokenizer(OPENING))
    asked = (Message(role="user", content="?"),)
    prompt = renderer.prompt(asked)
    assert renderer.opens_thoughts
    assert turn_of(renderer, prompt, "5").answer == ""
    turn = turn_of(renderer, prompt, "4?</think>\n\n5")
    assert turn.answer == "5"
    past = renderer.tokenizer.decode(list(renderer.history(turn)))
    assert past == "<|user|>?<|end|><|assistant|>5<|end|>"
    whole = renderer.tokenizer.decode(list(critique_prompt(renderer, turn)))
    assert whole.startswith(past + "<|user|>")
    assert whole.endswith("<|assistant|><think>\n")


@pytest.mark.parametrize(
    ("special", "text", "answer"),
    [
        (("[THINK]", "[/THINK]"), "[THINK]4é?[/THINK]5", "5"),
        (("[THINK]", "[/THINK]"), "[THINK]4?", ""),
        (("<think>", "</think>"), "<think>4?</think>\n\n5 and 6", "5 and 6"),
        (("<|channel|>", "<|message|>", "<|start|>"), HARMONY + "5", "5"),
        (("[THINK]", "[/THINK]"), "no thoughts: 5", "no thoughts: 5"),
    ],
    ids=str,
)
def test_tags_that_are_special_tokens(special, text, answer):
    plain = OPENING.replace("<think>\n", "")
    renderer = Renderer(tokenizer(plain, *special))
    turn = turn_of(renderer, renderer.prompt((Message(role="user", content="?"),)), text)
    assert turn.answer == answer
    assert turn.text.endswith(answer)


def test_templates_without_thoughts_keep_sampled_ids():
    renderer = Renderer(tokenizer(OPENING.replace("<think>\n", "")))
    prompt = renderer.prompt((Message(role="user", content="?"),))
    turn = turn_of(renderer, prompt, "5")
    assert renderer.history(turn) == (*prompt, *turn.completion_ids)


def test_problems_of_the_record_stay_readable():
    """A turn that was stored before thoughts were told apart has none."""
    stored = Turn(
        prompt_ids=(1,), completion_ids=(2,), logprobs=None, text="5", stop_reason="eos"
    ).model_dump()
    del stored["answer_from"]
    assert Turn.model_validate(stored).answer == "5"
    assert Problem.ask("?", id="p").question == "?"
    assert Feedback(text="x", source="program", saw_reference=False, provenance=CRITIC).ok
