"""Teacher, self-critique, and the engine in this process that can be both, and a judge."""

from importlib import resources

import pytest

from didact.engines.base import POLICY, AdamParams, Loss, Sample, SamplingParams
from didact.engines.local import LocalEngine
from didact.errors import UsageError
from didact.feedback.judge import make_judge
from didact.feedback.model_critic import TEACHER_SLOTS, ModelCritic
from didact.feedback_source import FeedbackRequest
from didact.llm.chat import ChatReply, ChatRequest
from didact.prompts import CRITIQUE_REQUEST, critique_messages, load_prompt, read_prompt
from didact.rendering.renderer import Renderer
from didact.rollouts.engine_chat import EngineChat
from didact.types import Message, Problem, Row, Turn
from tests.helpers import ScriptedEngine
from tests.helpers import teacher as make_teacher
from tests.test_judge import HOSTILE, ScriptedChat, sections

PROBLEM = Problem.ask("Spell this word backward (example: sun -> nus): tiger", id="p", reference="regit")


def about(answer="tiger", problem=PROBLEM, index=0):
    turn = Turn(prompt_ids=(1,), completion_ids=(2,), logprobs=(-1.0,), text=answer, stop_reason="eos")
    return FeedbackRequest(problem, turn, index)


# ── teacher and self-critique ─────────────────────────────────────────────────────────────────────


def test_a_teacher_sees_the_solution_with_the_instruction_to_keep_it():
    teacher = make_teacher(ScriptedChat(["Read it from the end.\n"]))
    (f,) = teacher.critique([about(index=2)])
    (request,) = teacher.model.requests
    outside, found = sections(request.messages[0].content)
    assert found == {"QUESTION": PROBLEM.question, "SOLUTION": "regit", "ANSWER": "tiger"}
    assert "Never state it" in outside
    assert request.schema is None
    assert (f.turn, f.text, f.source, f.saw_reference) == (2, "Read it from the end.", "teacher", True)
    assert (f.score, f.label, f.spans) == (None, None, ())
    assert f.provenance.author == f"scripted:{load_prompt('teacher_v1').label}"
    assert (f.provenance.tokens, f.provenance.cost_usd, f.provenance.created_at) == (7, 0.25, None)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_stays_inside_of_a_teacher_s_data(hostile):
    problem = Problem.ask(hostile, id="p", reference=hostile)
    (message,) = make_teacher(ScriptedChat([])).messages(about(hostile, problem))
    outside, found = sections(message.content)
    assert found == {"QUESTION": hostile, "SOLUTION": hostile, "ANSWER": hostile}
    (tame,) = make_teacher(ScriptedChat([])).messages(about())
    assert outside == sections(tame.content)[0]


def test_a_teacher_takes_a_prompt_of_the_user(tmp_path):
    file = tmp_path / "short.md"
    file.write_text("{answer} or {reference}?\n")
    teacher = make_teacher(ScriptedChat(["Look again."]), prompt=read_prompt(file, TEACHER_SLOTS))
    (f,) = teacher.critique([about("{reference}")])
    (request,) = teacher.model.requests
    assert request.messages == (Message(role="user", content="{reference} or regit?"),)
    assert f.provenance.author.startswith("scripted:short@")
    file.write_text("{reference}, not {answer}!")
    other = make_teacher(ScriptedChat(["Look again."]), prompt=read_prompt(file, TEACHER_SLOTS))
    assert other.critique([about()])[0].provenance.author != f.provenance.author


def test_a_faulty_prompt_is_refused_with_its_fault(tmp_path):
    file = tmp_path / "mine.md"
    with pytest.raises(UsageError, match=r"mine\.md"):
        read_prompt(file, TEACHER_SLOTS)
    file.write_bytes(b"\xff{answer}")
    with pytest.raises(UsageError, match=r"mine\.md"):
        read_prompt(file, TEACHER_SLOTS)
    file.write_text("Is it {answr}?")
    with pytest.raises(UsageError, match=r"\{answr\}.*answer"):
        read_prompt(file, TEACHER_SLOTS)
    file.write_text("What of {question}?")
    with pytest.raises(UsageError, match=r"\{answer\}"):
        read_prompt(file, TEACHER_SLOTS)


def test_without_a_solution_a_teacher_fails():
    teacher = make_teacher(ScriptedChat([]))
    (f,) = teacher.critique([about(problem=Problem.ask("2 + 2?", id="bare"))])
    assert "'bare' has no reference" in f.error
    assert not teacher.model.requests


def test_self_critique_asks_with_the_template_of_training_and_sees_nothing_private():
    critic = ModelCritic(ScriptedChat(["The answer is wrong."]))
    (f,) = critic.critique([about(" tiger ")])
    (request,) = critic.model.requests
    assert request.messages == critique_messages(PROBLEM, "tiger")
    assert "regit" not in str(request)
    assert (f.text, f.source, f.saw_reference) == ("The answer is wrong.", "self", False)


def test_training_and_inference_share_one_template():
    assert load_prompt("critique_v1").text == CRITIQUE_REQUEST
    assert critique_messages(PROBLEM, "x")[-1].content == CRITIQUE_REQUEST


@pytest.mark.parametrize("make", [make_teacher, ModelCritic])
@pytest.mark.parametrize("reply", ["  ", ChatReply(error="cut off", tokens=9)])
def test_no_whole_reply_is_a_failure_and_costs_its_tokens(make, reply):
    (f,) = make(ScriptedChat([reply])).critique([about()])
    assert (f.status, f.text, f.score) == ("failed", "", None)
    assert f.provenance.tokens == (7 if reply == "  " else 9)


# ── the engine as a chat model ────────────────────────────────────────────────────────────────────


def asked(*texts):
    return [ChatRequest((Message(role="user", content=text),)) for text in texts]


class SeededEngine(ScriptedEngine):
    """Says which seed and which weights it was asked with."""

    def __init__(self, answer=lambda text, j: "ok"):
        super().__init__(answer)
        self.calls = []

    def sample(self, prompts, n, params, *, seed, weights=None):
        self.calls.append((len(prompts), seed, weights, params))
        return super().sample(prompts, n, params, seed=seed)


def engine_chat(engine, **settings):
    return EngineChat(engine, Renderer(engine.tokenizer), **settings)


def test_draws_depend_on_the_seed_and_the_conversation_and_on_nothing_else():
    def seeds(texts, **settings):
        engine = SeededEngine()
        engine_chat(engine, params=SamplingParams(max_tokens=4), **settings).complete(asked(*texts))
        ((_, drawn, _, _),) = engine.calls
        return dict(zip(texts, drawn, strict=True))

    first = seeds(["a", "b", "c"])
    assert len(set(first.values())) == 3
    assert seeds(["c", "a"]) == {"c": first["c"], "a": first["a"]}
    assert seeds(["a"], seed=1)["a"] != first["a"]


def test_greedy_replies_are_sampled_together_from_the_named_weights():
    engine = SeededEngine()
    replies = engine_chat(engine, name="me").complete(asked("a", "b"))
    ((count, _, weights, params),) = engine.calls
    assert (count, weights, params.temperature) == (2, POLICY, 0.0)
    assert [r.text for r in replies] == ["ok", "ok"]
    assert [r.tokens for r in replies] == [3, 3]
    assert len({r.request_hash for r in replies}) == 2


def test_a_prompt_that_leaves_no_room_is_an_error_and_the_others_are_answered():
    engine = SeededEngine()
    engine.max_length = 60
    chat = engine_chat(engine, params=SamplingParams(max_tokens=20, temperature=0))
    long, short = chat.complete(asked("x" * 50, "x"))
    assert "leave policy no room for a reply of 20 in its context of 60" in long.error
    assert short.text == "ok"
    assert engine.calls[0][0] == 1
    assert chat.complete(asked("x" * 50))[0].error
    assert chat.complete([]) == []
    assert len(engine.calls) == 1


def test_a_cut_off_reply_is_an_error_and_a_stop_string_ends_one():
    class Stopping(SeededEngine):
        def _sample(self, text):
            ids = tuple(map(ord, text))
            return Sample(ids, (-1.0,) * len(ids), "stop" if "END" in text else "length")

    params = SamplingParams(max_tokens=9, temperature=0, stop=("END",))
    (reply,) = engine_chat(Stopping(lambda text, j: "good END x"), params=params).complete(asked("a"))
    assert reply.text == "good "
    (reply,) = engine_chat(Stopping(lambda text, j: "endless"), params=params).complete(asked("a"))
    assert reply.error == "policy: the reply was cut off at 7 tokens: raise max_tokens"
    assert (reply.text, reply.tokens) == ("", 7)


@pytest.fixture(scope="module")
def tiny():
    path = resources.files("didact") / "assets" / "tiny"
    return LocalEngine.from_pretrained(str(path), device="cpu")


def test_the_bundled_model_judges_itself_in_words(tiny):
    chat = engine_chat(tiny, name="tiny", params=SamplingParams(max_tokens=120, temperature=0.0))
    answers = ["tiger", "regit", "abc"]
    for source in (make_judge(chat, "text"), ModelCritic(chat)):
        written = source.critique([about(answer) for answer in answers])
        assert all(f.ok for f in written), [f.error for f in written]
        assert all(f.text.startswith("The answer is ") for f in written)
        assert {f.saw_reference for f in written} == {False}
        assert all(f.provenance.tokens > 1 for f in written)
    alone = [make_judge(chat, "text").critique([about(answer)])[0] for answer in answers]
    together = make_judge(chat, "text").critique([about(answer) for answer in answers])
    assert alone == together


def test_drawn_replies_repeat_in_any_company(tiny):
    chat = engine_chat(tiny, params=SamplingParams(max_tokens=60, temperature=1.0))
    requests = [ChatRequest(critique_messages(PROBLEM, answer)) for answer in ("tiger", "abc", "regit")]
    first = chat.complete(requests)
    assert chat.complete(requests[::-1])[::-1] == first
    assert chat.complete(requests[1:2]) == first[1:2]


def test_a_teacher_on_a_snapshot_stays_as_it_was_while_the_policy_learns():
    path = resources.files("didact") / "assets" / "tiny"
    engine = LocalEngine.from_pretrained(str(path), device="cpu")
    params = SamplingParams(max_tokens=60, temperature=0.0)
    frozen, live = (engine_chat(engine, params=params, weights=w) for w in (engine.snapshot(), POLICY))
    (request,) = [ChatRequest(critique_messages(PROBLEM, "tiger"))]
    before = frozen.complete([request])[0]
    assert live.complete([request])[0].text == before.text
    prompt, answer = live.renderer.prompt(request.messages), live.renderer.answer("The answer is right.")
    for _ in range(8):
        engine.forward_backward([Row.from_completion(prompt, answer, weights=1.0)], Loss("cross_entropy"))
        engine.optim_step(AdamParams(lr=3e-3))
    assert frozen.complete([request])[0] == before
    assert live.complete([request])[0].text == "The answer is right." != before.text
