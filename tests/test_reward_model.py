"""A reward model from annotated answers to RL: one prompt, no dropped sample, no reply of other weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from didact.build.engines import tiny_model
from didact.build.reward_models import model_version, reward_chat
from didact.build.sources import BuildContext
from didact.engines.base import SamplingParams
from didact.engines.local import LocalEngine
from didact.engines.local.agreement import require_agreement
from didact.errors import DataError, UsageError
from didact.feedback.program import ProgramCritic
from didact.feedback_source import FeedbackRequest
from didact.llm.chat import ChatReply, ChatRequest
from didact.methods.text2grad import SpanRewards, span_rewards
from didact.registry import SOURCES
from didact.rendering.renderer import Renderer
from didact.reward_model.model import Card, Prompter, RewardModel, find_model
from didact.rollouts.engine_chat import EngineChat
from didact.run_dir import read_jsonl
from didact.tasks.base import PolicyLimits
from didact.types import Example, Message, Problem, Rollout, Turn
from tests.helpers import annotated_task, didact
from tests.models import byte_tokenizer, save_model
from tests.test_judge import PROBLEM, ScriptedChat, about

WORDS = ("tin", "cat", "dog", "sun", "pen", "map", "net", "owl", "bus", "cup")


def example(word: str) -> Example:
    question = f"Spell this word backward (example: sun -> nus): {word}"
    problem = Problem.ask(question, id=word, reference=word[::-1])
    answer = word[1] + word[::-1][1:]
    turn = Turn(prompt_ids=(), completion_ids=(), logprobs=None, text=answer, stop_reason="eos")
    (said,) = ProgramCritic().critique([FeedbackRequest(problem, turn, 0)])
    return Example(id=word, problem=problem, completion=answer, feedback=(said,))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "marked.jsonl"
    file.write_text("".join(example(word).model_dump_json() + "\n" for word in WORDS), encoding="utf-8")
    return file


def card(**changes: Any) -> Card:
    return Card(**{"format": "lines_v1", "max_tokens": 16, **changes})


def characters(messages: Any) -> int:
    return sum(len(m.content) for m in messages)


# ── prompts ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("format_", ["json_v1", "lines_v1"])
@pytest.mark.parametrize("shown", [0, 10, 400])
def test_the_problem_is_cut_in_the_middle_and_the_answer_never(format_: str, shown: int) -> None:
    problem = Problem.ask("A" * 500 + "Z" * 500, id="long")
    answer = "the whole answer " * 20
    free = Prompter(card(format=format_), characters)
    none = characters(free.format.messages(problem, answer, reasoning=True, context=0))
    prompter = Prompter(card(format=format_, prompt_tokens=none + shown), characters)
    messages = prompter.messages(problem, answer)
    assert messages is not None
    whole = "\n".join(m.content for m in messages)
    assert characters(messages) <= none + shown
    assert answer in whole
    assert "characters left out" in whole
    heads, tails = whole.count("AAAA" * 5), whole.count("ZZZZ" * 5)
    assert heads == tails
    assert (heads > 0) == (shown == 400)
    assert free.messages(problem, answer) == free.format.messages(problem, answer, reasoning=True)
    assert (
        Prompter(card(format=format_, prompt_tokens=none - 1), characters).messages(problem, answer) is None
    )


def test_a_conversation_that_fits_keeps_its_messages() -> None:
    chat = tuple(Message(role=r, content=r * 3) for r in ("system", "user"))
    problem = Problem(id="p", messages=chat)
    messages = Prompter(card(prompt_tokens=1000), characters).messages(problem, "a")
    assert messages is not None
    assert messages[:2] == chat


# ── the source ────────────────────────────────────────────────────────────────────────────────────────


def marked(reply: Any, answer: str = "one two", **changes: Any) -> tuple[Any, RewardModel]:
    model = RewardModel(ScriptedChat([reply]), Prompter(card(**changes), characters))
    (said,) = model.critique([about(answer)])
    return said, model


def test_a_reply_becomes_spans() -> None:
    said, model = marked("The first is right.\n+ one\n- two\n- three")
    assert [(s.quote, s.label) for s in said.spans] == [("one", "good"), ("two", "poor")]
    assert (said.text, said.source, said.saw_reference) == ("The first is right.", "judge", False)
    assert said.provenance.author == "scripted:lines_v1"
    assert (model.seen["quotes"], model.seen["unplaced"], model.seen["unparsed"]) == (3, 1, 0)


@pytest.mark.parametrize(
    "reply", ["", "Fine.\ngibberish", ChatReply("Fin", 3, error="cut"), ChatReply("", 3, error="cut")]
)
def test_what_cannot_be_read_is_neutral_and_counted(reply: Any) -> None:
    said, model = marked(reply)
    assert said.ok
    assert said.spans == ()
    assert model.seen["unparsed"] == 1
    ids = tuple(byte_tokenizer().encode("one two"))
    turn = Turn(
        prompt_ids=(1,), completion_ids=ids, logprobs=(0.0,) * len(ids), text="one two", stop_reason="length"
    )
    rollout = Rollout(id="r", group="g", problem=PROBLEM, turns=(turn,), feedback=(said,))
    [rewards], _ = span_rewards([rollout], byte_tokenizer(), SpanRewards())
    assert rewards is not None, "the answer must stay in every mean"
    assert rewards.tolist() == [0.0] * len(ids)


def test_a_cut_reply_keeps_its_whole_lines() -> None:
    said, model = marked(ChatReply("Fine.\n+ one\n- tw", 9, error="cut off"))
    assert [s.quote for s in said.spans] == ["one"]
    assert model.seen["repaired"] == 1


def test_an_answer_that_is_too_long_to_ask_about_is_neutral() -> None:
    said, model = marked("never read", answer="x" * 500, prompt_tokens=400)
    assert said.ok
    assert model.seen["too_long"] == 1
    assert model.model.requests == []  # type: ignore[attr-defined]


def test_a_model_that_cannot_be_asked_is_a_failure() -> None:
    said, _ = marked(ChatReply(error="the server is down"))
    assert (said.status, said.error) == ("failed", "the server is down")


# ── annotated answers as a task ───────────────────────────────────────────────────────────────────────


def test_annotated_answers_are_split_by_question_and_verified(data: Path) -> None:
    task = annotated_task(data, format="lines_v1")
    sides = [{item.problem.id for item in side} for side in (task.trained_on, task.held_out)]
    assert sides[0] | sides[1] == set(WORDS)
    assert not sides[0] & sides[1]
    problem = task.train_problem(0)
    assert problem.reference is not None
    assert task.verify(problem, problem.reference) == (1.0, True, None)
    head = problem.reference.split("\n")[0]
    assert task.verify(problem, head).reward == 0
    assert not task.verify(problem, "what").correct
    partly = task.verify(problem, problem.reference.rsplit("\n", 1)[0])
    assert partly.reward is not None
    assert 0 < partly.reward < 1


def test_what_is_not_marked_or_does_not_fit_is_left_out(data: Path, tmp_path: Path) -> None:
    two = tmp_path / "two.jsonl"
    two.write_text("".join(example(w).model_dump_json() + "\n" for w in ("gnu", "plant")), encoding="utf-8")
    task = annotated_task(two, eval_path=data, format="lines_v1")
    assert [p.id for p in task.all_train_problems()] == ["gnu#0", "plant#0"]
    longest = len(task.all_train_problems()[0].reference or "")
    task.bind_policy(PolicyLimits(characters, len, None, longest, {}))
    assert [p.id for p in task.all_train_problems()] == ["gnu#0"]
    assert sum(task.left_out.values()) == 1
    with pytest.raises(DataError, match="max_tokens"):
        task.bind_policy(PolicyLimits(characters, len, 20, 10, {}))
    bare = tmp_path / "bare.jsonl"
    rows = [example(w).model_copy(update={"feedback": ()}) for w in WORDS]
    bare.write_text("".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DataError, match="--spans"):
        annotated_task(bare)
    with pytest.raises(DataError, match="trained on"):
        annotated_task(data, eval_path=data)


def test_what_was_drawn_before_some_were_left_out_is_drawn_anew(data: Path, tmp_path: Path) -> None:
    """A run looks at its first problem before it knows how long the model's replies may be."""
    two = tmp_path / "two.jsonl"
    two.write_text("".join(example(w).model_dump_json() + "\n" for w in ("gnu", "plant")), encoding="utf-8")
    for seed in range(6):
        task = annotated_task(two, eval_path=data, format="lines_v1", seed=seed)
        task.train_problem(0)
        longest = len(task.all_train_problems()[0].reference or "")
        task.bind_policy(PolicyLimits(characters, len, None, longest, {}))
        assert {task.train_problem(i).id for i in range(3)} == {"gnu#0"}


# ── the model itself ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def test_replies_of_other_weights_are_asked_for_anew(model: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    engine = LocalEngine.from_pretrained(model, device="cpu")
    renderer = Renderer(engine.tokenizer)
    asked = [ChatRequest((Message(role="user", content="Mark it."),))]
    other = [ChatRequest((Message(role="user", content="Mark that."),))]

    def chat() -> Any:
        return reward_chat(engine, renderer, card(max_tokens=2), cache=tmp_path)

    first = chat()
    [reply] = first.complete(asked)
    before = model_version(engine)
    assert reply.tokens > 0
    assert chat().request_hash(asked[0]) == first.request_hash(asked[0])
    assert chat().request_hash(other[0]) != first.request_hash(asked[0])
    with torch.no_grad():
        next(iter(engine.model.parameters())).view(-1)[0] += 1
    assert model_version(engine) != before
    assert chat().request_hash(asked[0]) != first.request_hash(asked[0])


QUICK = [
    "--set", "steps=1", "--set", "problems_per_step=2", "--set", "sampling.max_tokens=100",
    "--set", "eval.problems=2", "--set", "optim.lr=1e-3", "--set", "model.device=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "rm"
    words = ["reward-model", "train", data, "--model", model, "--format", "lines_v1", "--out", out]
    assert didact(*words, *QUICK) == 0
    return out


def test_training_evaluation_and_rl_ask_with_the_same_ids(
    trained: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    asked: list[tuple[int, ...]] = []
    sample = LocalEngine.sample

    def spy(self: LocalEngine, prompts: Any, n: int, params: Any, **rest: Any) -> Any:
        asked.extend(prompts)
        return sample(self, prompts, n, params, **rest)

    monkeypatch.setattr(LocalEngine, "sample", spy)
    in_training = {
        r["problem"]["metadata"]["answer"]: tuple(r["turns"][0]["prompt_ids"])
        for r in read_jsonl(trained / "rollouts.jsonl")
    }
    by_answer = {example(word).completion: example(word) for word in WORDS}
    engine = LocalEngine.from_pretrained(trained / "model", device="cpu")
    require_agreement(engine)  # as every command does once, with samples of its own
    asked.clear()
    at = BuildContext(
        load=lambda path: (engine, Renderer(engine.tokenizer)), policy=None, task=None, seed=0, home=None
    )
    source = SOURCES.make("reward-model", {"model": str(trained)}).build(at)
    requests = []
    for answer in in_training:
        turn = Turn(prompt_ids=(), completion_ids=(), logprobs=None, text=answer, stop_reason="eos")
        requests.append(FeedbackRequest(by_answer[answer].problem, turn, 0))
    assert all(f.ok for f in source.critique(requests))
    assert sorted(asked) == sorted(in_training.values())
    # Evaluation, of the same answers in a file of their own; the run would refuse what it was trained on.
    asked.clear()
    part = tmp_path / "part.jsonl"
    part.write_text("".join(by_answer[a].model_dump_json() + "\n" for a in in_training), encoding="utf-8")
    assert didact("reward-model", "eval", trained, part) == 3
    alone = tmp_path / "alone"
    (trained / "model").rename(alone)
    try:
        assert didact("reward-model", "eval", alone, part, "--draws", "0", "--set", "model.device=cpu") == 0
    finally:
        alone.rename(trained / "model")
    assert sorted(asked) == sorted(in_training.values())
    assert "replies that cannot be read" in capsys.readouterr().out


def test_train_then_eval_then_a_step_of_rl(
    trained: Path, model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Card.read(find_model(trained)).max_tokens == 100
    assert Card.read(find_model(trained / "model")).prompt_tokens == 1024 - 100
    capsys.readouterr()
    assert didact("reward-model", "eval", trained, "--json", "--draws", "2", "--set", "model.device=cpu") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["answers"] == len(annotated_task(data).held_out)
    assert record["format"] == "lines_v1"
    assert record["calibration"]["good"]["ece"]["value"] is not None
    out = tmp_path / "rl"
    words = ["train", "text2grad", "--model", model, "--task", "spell_backward", "--feedback", "reward-model"]
    words += ["--judge-model", trained, "--set", "settings.samples=2"]
    code = didact(*words, *QUICK, "--set", "eval.problems=0", "--set", "sampling.max_tokens=4", "--out", out)
    assert code in (0, 4), "random weights mark nothing, so that nothing may move; nothing else is wrong"
    said = [json.loads(line) for line in (out / "feedback.jsonl").read_text().splitlines()]
    assert len(said) == 4
    assert all(f["status"] == "ok" for f in said)
    assert all(f["provenance"]["author"].startswith("reward-model@") for f in said)
    [step] = read_jsonl(out / "metrics.jsonl")
    assert step["answers_unlabelled"] <= 4
    assert str(trained / "model" / "reward_model.json") in (out / "inputs.json").read_text()


def test_settings_that_do_not_fit_are_refused(trained: Path, tmp_path: Path) -> None:
    engine = LocalEngine.from_pretrained(trained / "model", device="cpu")
    at = BuildContext(
        load=lambda path: (engine, Renderer(engine.tokenizer)), policy=None, task=None, seed=0, home=None
    )
    with pytest.raises(UsageError, match="max_tokens"):
        SOURCES.make("reward-model", {"model": str(trained), "max_tokens": 1000}).build(at)
    with pytest.raises(UsageError, match=r"reward_model\.json"):
        SOURCES.make("reward-model", {"model": str(tmp_path)}).build(at)
    (tmp_path / "reward_model.json").write_text('{"format": "prose"}')
    with pytest.raises(DataError, match="prose"):
        find_model(tmp_path)


def test_a_reply_that_was_cut_off_keeps_its_text_on_request() -> None:
    engine = LocalEngine.from_pretrained(tiny_model(), device="cpu")
    asked = [ChatRequest(PROBLEM.messages)]
    params = SamplingParams(max_tokens=1, temperature=0.0)
    [kept], [dropped] = (
        EngineChat(engine, Renderer(engine.tokenizer), params=params, keep_cut=keep).complete(asked)
        for keep in (True, False)
    )
    assert "cut off" in (kept.error or "")
    assert (len(kept.text), dropped.text, dropped.error) == (1, "", kept.error)
