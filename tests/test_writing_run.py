"""Writing from settings alone: a judge's scores are the rewards, and what it fails at is missing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from didact.build.rewards import JudgeReward
from didact.errors import BudgetExceeded, CheckpointError, Interrupted, UsageError
from didact.evaluation.evaluate import score_metrics
from didact.feedback.length_control import mean_interval, score_at, win_rate
from didact.feedback_source import FeedbackRequest
from didact.llm import http
from didact.llm.chat import ChatReply
from didact.registry import REWARDS
from didact.rng import generator
from didact.run_dir import RunDir, read_jsonl
from didact.training.api import resume
from didact.types import Problem, Turn
from tests.helpers import didact
from tests.judge_server import TRANSIENT, JudgeServer
from tests.models import save_model
from tests.test_tasks_writing import PROBLEM, ScriptedChat, rated, section

RECIPE = Path(__file__).parent.parent / "recipes" / "writing"
NOBODY = "'http://127.0.0.1:1/v1'"
LETTERS = "aeinorst"
"""What the scripted judge likes."""


def points(piece: str) -> int:
    """From 1 to 10: the share of letters that the judge likes."""
    return 1 + round(9 * sum(c in LETTERS for c in piece.lower()) / max(1, len(piece)))


def refuses(piece: str) -> bool:
    """About every fourth piece gets no verdict, however often it is asked for."""
    return sum(map(ord, piece)) % 4 == 0


def judge(messages: list[dict[str, str]]) -> str:
    """Rates by letters, and compares by them."""
    text = messages[0]["content"]
    if "BEGIN FIRST PIECE" in text:
        first, second = points(section(text, "FIRST PIECE")), points(section(text, "SECOND PIECE"))
        winner = "tie" if first == second else "first" if first > second else "second"
        return json.dumps({"reason": "Letters.", "winner": winner})
    if "BEGIN PIECE" not in text:
        return "More verbs."
    return rated(points(section(text, "PIECE")), "More vowels.")


def moody(messages: list[dict[str, str]]) -> str:
    """The same, and no verdict at all on some pieces."""
    text = messages[0]["content"]
    if "BEGIN PIECE" in text and refuses(section(text, "PIECE")):
        return "I would rather not say."
    return judge(messages)


def recipe(model: object, url: str | None, out: Path, *more: object, method: str = "rltf-sd") -> list[object]:
    """The recipe's command on a small model, a few steps long."""
    words: list[object] = [
        "train",
        method,
        "--config",
        RECIPE / "config.yaml",
        "--model",
        model,
        "--out",
        out,
    ]
    changes = [
        f"task.settings={{path: {RECIPE}/train.jsonl, eval_path: {RECIPE}/eval.jsonl}}",
        "model.chat_template={}", "model.lora=null", "problems_per_step=4", "steps=2",
        "settings.samples=2", "sampling.max_tokens=24", "optim.lr=1e-3", "checkpoint_every=1",
        "eval.problems=6", "eval.every=0", "eval.temperature=1.0",
    ]  # fmt: skip
    if url is not None:
        changes += [f"reward.settings.base_url={url}", "reward.settings.api_key_env=null"]
    for change in (*changes, *more):
        words += ["--set", change]
    return words


def turns(out: Path) -> list[dict[str, Any]]:
    return [turn for r in read_jsonl(out / "rollouts.jsonl") for turn in r["turns"]]


def steps(out: Path) -> list[dict[str, Any]]:
    return [m for m in read_jsonl(out / "metrics.jsonl") if "eval" not in m]


def evaluations(out: Path) -> list[dict[str, Any]]:
    return [m["eval"] for m in read_jsonl(out / "metrics.jsonl") if "eval" in m]


# ── a run ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_recipe_runs_end_to_end_on_a_judge_behind_a_server(
    roomy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "FIRST_DELAY", 0.01)
    out = tmp_path / "run"
    with JudgeServer(judge, fault_rate=0.1, faults=TRANSIENT, seed=1) as server:
        assert didact(*recipe(roomy, server.url, out)) == 0
        assert sum(server.faulted.values()) > 0
    answers = turns(out)
    assert len(answers) > 16, "some were revised"
    assert [t["reward"] for t in answers] == [(points(t["text"]) - 1) / 9 for t in answers]
    said = list(read_jsonl(out / "feedback.jsonl"))
    assert {(f["source"], f["status"], f["text"]) for f in said} == {("judge", "ok", "More vowels.")}
    assert all(f["provenance"]["tokens"] == 0 for f in said), "it was paid for with the score"
    metrics = steps(out)
    assert all(m["reward_tokens"] > 0 for m in metrics)
    assert metrics[-1]["feedback_tokens"] == sum(m["reward_tokens"] for m in metrics)
    assert all("loss/sd" in m for m in metrics)

    start, end = evaluations(out)
    assert "win_rate" not in start
    for values in (start, end):
        assert 0 <= values["score_ci95"][0] <= values["score"] <= values["score_ci95"][1] <= 1
        assert [r["round"] for r in values["scores"]] == [0, 1]
        assert values["scores"][1]["score"] == values["score_after_feedback"]
        assert {"at_equal_length", "at_equal_length_ci95", "length"} <= values["scores"][0].keys()
    first = [r.turns[0].reward for r in RunDir(out).read_evaluation(0)]
    last = [r.turns[0].reward for r in RunDir(out).read_evaluation(2)]
    assert start["score"] == pytest.approx(np.mean(first))
    wins = [1.0 if b > a else 0.5 if a == b else 0.0 for a, b in zip(first, last, strict=True)]  # type: ignore[operator]
    assert end["win_rate"]["raw"] == pytest.approx(np.mean(wins))
    assert end["win_rate_pairwise"]["raw"] == end["win_rate"]["raw"], "one judge, one mind"
    assert end["win_rate_pairwise"]["survived_swap"] == 1.0
    assert 0 <= end["win_rate"]["controlled"] <= 1
    assert didact("compare", out, out) == 0


def test_a_failed_score_leaves_every_mean_and_loss(roomy: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    loose = ("reward.max_failed=1", "feedback.max_failed=1", "eval.problems=0", "settings.samples=4")
    with JudgeServer(moody) as server:
        assert didact(*recipe(roomy, server.url, out, *loose)) == 0
    answers = turns(out)
    lost = [t for t in answers if refuses(t["text"])]
    assert 0 < len(lost) < len(answers)
    assert [t["reward"] is None for t in answers] == [refuses(t["text"]) for t in answers]
    for metrics in steps(out):
        rollouts = [r for r in read_jsonl(out / "rollouts.jsonl") if r["step"] == metrics["step"]]
        firsts = [r["turns"][0]["reward"] for r in rollouts]
        assert metrics["reward_first"] == pytest.approx(np.mean([r for r in firsts if r is not None]))
        assert metrics["unverified"] == sum(t["reward"] is None for r in rollouts for t in r["turns"])
        revised = sum(len(r["turns"]) > 1 and r["turns"][1]["reward"] is not None for r in rollouts)
        assert metrics.get("rows/sd", 0) <= revised
        scored = sum(t["reward"] is not None for r in rollouts for t in r["turns"])
        assert metrics["rows/rl"] <= scored


@pytest.mark.parametrize("source", ["self", "judge:openai"])
def test_another_source_may_criticise_what_the_judge_scores(source: str, roomy: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with JudgeServer(judge) as server:
        settings = "{max_tokens: 8}" if source == "self" else f"{{base_url: {server.url}, api_key_env: null}}"
        settings = settings if source == "self" else settings[:-1] + ", output: text}"
        words = recipe(
            roomy, server.url, out, f"feedback.source={source}", f"feedback.settings={settings}", "steps=1",
            "eval.problems=0", "feedback.max_failed=1",
        )  # fmt: skip
        assert didact(*words) == 0
    assert {f["source"] for f in read_jsonl(out / "feedback.jsonl")} == {source.split(":")[0]}
    budgets = {p.name for p in (out / "replies").glob("*budget.json")}
    assert budgets == {"reward-budget.json"} | ({"budget.json"} if source == "judge:openai" else set())


def test_a_stopped_run_goes_on_bit_for_bit(roomy: Path, tmp_path: Path) -> None:
    """The judge is asked about nothing that it has judged, and its tokens are counted the same."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    more = ("eval.every=1", "eval.problems=3", "reward.pairwise=false")
    with JudgeServer(judge) as server:
        assert didact(*recipe(roomy, server.url, whole, *more)) == 0
        shutil.copytree(whole, cut)
        (cut / "result.json").unlink()
        shutil.rmtree(cut / "checkpoints" / "step-000002")
        asked = len(server.bodies)
        resume(cut)
        assert len(server.bodies) == asked
    for name in ("metrics.jsonl", "rollouts.jsonl", "feedback.jsonl", "evaluations.jsonl", "result.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name


def test_an_instruction_descends_by_the_judge_too(roomy: Path, tmp_path: Path) -> None:
    out = tmp_path / "fd"
    more = ("settings={train: 6, validation: 4, prompt_tokens: 64}", "reward.pairwise=false")
    with JudgeServer(judge) as server:
        words = recipe(roomy, server.url, out, *more)
        assert didact("descend", *words[2:], "--rounds", 2) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["feedback_tokens"] > 0, "what the scores cost"
    assert result["sampled_tokens"] > 0
    scores = [json.loads(line)["scores"] for line in (out / "prompts.jsonl").read_text().splitlines()]
    assert all(0 <= score <= 1 for line in scores for score in line)
    assert sum(scores[-1]) >= sum(scores[0]), "kept only if better"
    assert [e["n"] for e in evaluations(out)] == [6, 6]


# ── a judge in this process ───────────────────────────────────────────────────────────────────────

VERDICT = rated(4, "thin")


@pytest.fixture(scope="module")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers everything with one verdict: its layers are empty, one token follows another."""
    folder = save_model(
        tmp_path_factory.mktemp("judge"), "llama", max_position_embeddings=4096, tie_word_embeddings=False
    )
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([VERDICT])
    model.resize_token_embeddings(len(tokenizer))
    asked, verdict, end = (tokenizer.convert_tokens_to_ids(t) for t in ("<|assistant|>", VERDICT, "<|end|>"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.norm.weight.fill_(1.0)
        for place, (token, following) in enumerate([(asked, verdict), (verdict, end)]):
            model.model.embed_tokens.weight[token, place] = 1.0
            model.lm_head.weight[following, place] = 10.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_judge_in_this_process_scores_and_criticises(parrot: Path, roomy: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    local = (
        "reward.source=judge:local", f"reward.settings={{model: {parrot}, max_tokens: 60}}", "steps=1",
        "eval.problems=2", "problems_per_step=2", "reward.pairwise=false",
    )  # fmt: skip
    # One score for all answers is no signal, and the guard says that nothing was learned.
    assert didact(*recipe(roomy, None, out, *local)) == 4
    written = [t for t in turns(out) if t["text"].strip()]
    assert {t["reward"] for t in written} == {3 / 9}
    assert {f["text"] for f in read_jsonl(out / "feedback.jsonl")} <= {
        "thin",
        "The piece is empty: write what was asked for.",
    }
    assert json.loads((out / "inputs.json").read_text())[f"model {parrot}"]
    (out / "result.json").unlink()
    weights = parrot / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-4] + b"\0\0\0\0")
    try:
        with pytest.raises(CheckpointError, match=f"model {parrot}"):
            resume(out)
    finally:
        weights.write_bytes(kept)


def test_the_bundled_model_cannot_hold_the_judges_prompt_and_the_run_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = ("reward.source=judge:local", "reward.settings={}")
    assert didact(*recipe("tiny", None, tmp_path / "run", *local)) == 75
    error = capsys.readouterr().err
    assert "gave none of the first" in error
    assert "no room for a reply" in error
    assert "reward.source" in error


# ── settings ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("task", "change", "cure"),
    [
        ("writing", "", "reward.source=judge:local"),
        ("writing", "reward.source=judge", "did you mean 'judge:"),
        ("writing", "reward.sorce=judge:local", "did you mean 'source'"),
        ("writing", "reward={source: judge:local, settings: {goood: 3}}", "'good'"),
        ("writing", "reward={source: judge:local, settings: {good: 1}}", "good = 1"),
        (
            "writing",
            f"reward={{source: judge:openai, settings: {{base_url: {NOBODY}, max_cost: 1}}}}",
            "reward.settings.max_cost",
        ),
        ("spell_backward", "reward.source=judge:local", "remove that section"),
        ("spell_backward", "feedback.source=reward", "reward.source"),
    ],
)
def test_settings_that_name_no_judge_say_what_would(
    task: str, change: str, cure: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--set", change] if change else []
    assert didact("train", "grpo", "--task", task, *words, "--out", tmp_path / "run") == 2
    assert cure in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_rubrics_settings_have_those_of_their_judge() -> None:
    chosen = REWARDS.make("judge:local", {"good": 8, "max_tokens": 99})
    assert (chosen.good, chosen.model_dump()["max_tokens"]) == (8, 99)
    with pytest.raises(UsageError, match="output"):
        REWARDS.make("judge:openai", {"output": "text"})


# ── scoring ───────────────────────────────────────────────────────────────────────────────────────


def scoring(reply: Any, max_failed: float = 0.1) -> JudgeReward:
    return JudgeReward(ScriptedChat(reply), max_failed)


def pieces(n: int, start: int = 0) -> list[tuple[Problem, str]]:
    return [(PROBLEM, f"piece {i}") for i in range(start, start + n)]


def test_too_many_failed_scores_stop_resumably() -> None:
    fails = [False]
    found = scoring(lambda text: ChatReply(error="down") if fails[0] else rated(5))
    found.score(pieces(10))
    fails[0] = True
    assert [v.reward for v in found.score(pieces(6, 10))] == [None] * 6
    with pytest.raises(Interrupted, match=r"7 .* 17 .*reward\.max_failed"):
        found.score(pieces(1, 16))


def test_a_judge_that_fails_at_everything_stops_at_once_unless_told_otherwise() -> None:
    with pytest.raises(Interrupted, match=r"reward\.max_failed=1"):
        scoring(lambda text: ChatReply(error="down")).score(pieces(2))
    assert scoring(lambda text: ChatReply(error="down"), 1.0).score(pieces(99))[0].reward is None


def test_a_spent_budget_is_no_fault_that_passes() -> None:
    with pytest.raises(BudgetExceeded, match="max_requests = 1"):
        scoring(lambda text: ChatReply(error="max_requests = 1", error_kind="budget"), 1.0).score(pieces(1))


def test_a_score_is_billed_once_and_its_critique_is_free() -> None:
    found = scoring(lambda text: rated(5))
    found.score(pieces(3))
    turn = Turn(prompt_ids=(), completion_ids=(), logprobs=None, text="piece 0", stop_reason="eos")
    new = turn.model_copy(update={"text": "unscored"})
    free, paid = found.critique([FeedbackRequest(PROBLEM, turn, 0), FeedbackRequest(PROBLEM, new, 0)])
    assert (free.provenance.tokens, paid.provenance.tokens) == (0, 7)
    assert found.pop_cost() == (21, 0.75)
    assert found.pop_cost() == (0, 0.0)
    found.score(pieces(1))  # known, and told at its price, as a resumed run would
    assert found.pop_cost().tokens == 7


# ── scores at equal length ────────────────────────────────────────────────────────────────────────


def answers(scores: list[float], lengths: list[int]) -> list[Turn]:
    return [
        Turn(prompt_ids=(), completion_ids=(), logprobs=None, text="x" * n, stop_reason="eos", reward=s)
        for s, n in zip(scores, lengths, strict=True)
    ]


def test_a_judge_that_pays_for_length_alone_sees_no_gain_at_equal_length() -> None:
    rng = generator(0, "lengths")
    short = rng.integers(60, 240, 200)
    longer = short + 50
    score = lambda n: float(1 / (1 + np.exp(-(n - 150) / 80)))  # noqa: E731
    firsts = answers([score(n) for n in short], short.tolist())
    seconds = answers([score(n) for n in longer], longer.tolist())
    found = score_metrics(firsts, [firsts, seconds])
    before, after = found["scores"]
    assert after["score"] - before["score"] > 0.1
    assert abs(after["at_equal_length"] - before["at_equal_length"]) < 0.03
    assert after["length_effect"] > 0.5
    assert found["score_after_feedback"] == after["score"]


def test_a_score_at_a_length_is_the_win_rate_of_a_constant_opponent() -> None:
    rng = generator(1, "lengths")
    scores, lengths = rng.random(50), rng.integers(10, 90, 50)
    here, there = (
        score_at(scores, lengths, 40, n_resamples=20),
        win_rate(scores, lengths, [40] * 50, n_resamples=20),
    )
    assert (here.raw, here.controlled, here.low, here.high) == (
        there.raw,
        there.controlled,
        there.low,
        there.high,
    )
    low, high = mean_interval(scores, n_resamples=20)
    assert low <= here.raw <= high
    missing = score_at([*scores, float("nan")], [*lengths, 10**6], 40, n_resamples=20)
    assert (missing.raw, missing.missing) == (here.raw, 1)


def test_one_answer_has_a_score_and_no_interval() -> None:
    found = score_metrics(answers([0.5], [10]), [])
    assert (found["score"], found["length"]) == (0.5, 10.0)
    assert "score_ci95" not in found
    assert found["scores"] == [{"round": 0, "n": 1, "score": 0.5, "length": 10.0}]


# ── the recipe ────────────────────────────────────────────────────────────────────────────────────


def test_the_recipes_prompts_are_apart_and_not_those_that_ship() -> None:
    rows = {
        n: [json.loads(line) for line in (RECIPE / f"{n}.jsonl").read_text().splitlines()]
        for n in ("train", "eval")
    }
    train, held = ({row["prompt"] for row in rows[n]} for n in ("train", "eval"))
    assert (len(train), len(held)) == (32, 12)
    assert not train & held
    assert len({row["id"] for part in rows.values() for row in part}) == 44
    assert all(len(prompt.encode()) <= 120 for prompt in train | held)
    assert re.search(r"It has not been run by the project", (RECIPE / "README.md").read_text())
