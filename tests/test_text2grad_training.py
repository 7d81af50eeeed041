"""Text2Grad on a real model: phrases move as they were called, and a run goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import didact
from didact.build import components as setup
from didact.engines.base import AdamParams, ValueHeadSettings
from didact.engines.local import LocalEngine
from didact.errors import NoOpTrainingError
from didact.methods import Text2Grad
from didact.rendering.renderer import Renderer
from didact.run_dir import read_jsonl
from didact.training import loop
from didact.training.checkpoint import load_checkpoint
from didact.types import Problem, Rollout, Row, Turn
from tests.bigram import critique
from tests.helpers import context
from tests.models import save_model
from tests.numerics import assert_gradients_close

GOOD, POOR = "the sun", "is up"
TEXTS = {GOOD: f"well, {GOOD}!", POOR: f"it {POOR}"}
CREDITS = ("direct", "gae", "critic_free")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def make_engine(model: Path, **settings: object) -> LocalEngine:
    torch.set_num_threads(1)
    values = {"device": "cpu", "keep_reference": True, "value_head": ValueHeadSettings(), **settings}
    return LocalEngine.from_pretrained(model, **values)  # type: ignore[arg-type]


def answers(engine: LocalEngine, labels: dict[str, str]) -> list[Rollout]:
    """Two answers of one group, each with a phrase and what is said about it.

    In one answer, what comes after a token would count for it too, under all credit but direct.
    """
    problem = Problem.ask("q", id="q", reference="a")
    prompt = Renderer(engine.tokenizer).prompt(problem.messages)
    found = []
    for phrase, text in TEXTS.items():
        ids = tuple(engine.tokenizer.encode(text))
        [logprobs_T] = engine.logprobs([Row.from_completion(prompt, ids)])
        turn = Turn(
            prompt_ids=prompt, completion_ids=ids, logprobs=tuple(logprobs_T[-len(ids) :].tolist()),
            text=text, stop_reason="length", reward=0.0,
        )  # fmt: skip
        said = critique(text, [(phrase, labels[phrase])] if phrase in labels else [])
        found.append(Rollout(id=phrase, group="g", problem=problem, turns=(turn,), feedback=(said,)))
    return found


def phrase_logprobs(engine: LocalEngine, rollouts: list[Rollout]) -> dict[str, float]:
    """Σ log π of each phrase's tokens within its answer; a token is a byte here."""
    turns = [rollout.turns[0] for rollout in rollouts]
    scored = engine.logprobs([Row.from_completion(t.prompt_ids, t.completion_ids) for t in turns])
    found = {}
    for (phrase, text), turn, logprobs_T in zip(TEXTS.items(), turns, scored, strict=True):
        at = text.index(phrase)
        own_T = logprobs_T[-len(turn.completion_ids) :]
        found[phrase] = float(own_T[at : at + len(phrase)].sum())
    return found


def step(model: Path, credit: str, labels: dict[str, str]) -> dict[str, float]:
    """How far one step moves each phrase, in nats."""
    engine = make_engine(model)
    ctx = context(engine, renderer=Renderer(engine.tokenizer))
    rollouts = answers(engine, labels)
    before = phrase_logprobs(engine, rollouts)
    for term in Text2Grad(credit=credit).rows(ctx, rollouts):
        engine.forward_backward(term.rows, term.loss)
        # Plain gradient descent: what AdamW does to phrases that were not trained would hide the sign.
        engine.optim_step(AdamParams(lr=1e6, beta1=0, beta2=0, eps=1e8, max_grad_norm=1.0))
    after = phrase_logprobs(engine, rollouts)
    return {phrase: after[phrase] - before[phrase] for phrase in before}


@pytest.mark.parametrize("credit", CREDITS)
def test_a_planted_good_phrase_rises_and_a_poor_one_falls(model: Path, credit: str) -> None:
    moved = step(model, credit, {GOOD: "good", POOR: "poor"})
    assert moved[GOOD] > 1e-3
    assert moved[POOR] < -1e-3


@pytest.mark.parametrize("credit", CREDITS)
def test_a_sign_that_is_flipped_turns_the_phrases_round(model: Path, credit: str) -> None:
    moved = step(model, credit, {GOOD: "poor", POOR: "good"})
    assert moved[GOOD] < -1e-3
    assert moved[POOR] > 1e-3


@pytest.mark.parametrize("credit", CREDITS)
def test_neither_moves_when_nothing_is_labelled(model: Path, credit: str) -> None:
    assert step(model, credit, {}) == {GOOD: 0.0, POOR: 0.0}


@pytest.mark.parametrize("credit", CREDITS)
def test_padding_and_order_do_not_change_the_gradient(model: Path, credit: str) -> None:
    found = []
    for budget, turned in ((30, False), (4096, True)):
        engine = make_engine(model, tokens_per_batch=budget)
        ctx = context(engine, renderer=Renderer(engine.tokenizer))
        rollouts = answers(engine, {GOOD: "good", POOR: "poor"})
        [term] = Text2Grad(credit=credit).rows(ctx, rollouts[::-1] if turned else rollouts)
        engine.forward_backward(term.rows, term.loss)
        found.append({n: p.grad for n, p in engine._trained.items() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert_gradients_close(found[0].values(), [found[1][name] for name in found[0]])


def test_the_value_head_learns_what_comes(model: Path) -> None:
    """Many steps on one answer: V of its prefixes comes near what the answer still earns there."""
    engine = make_engine(model, value_head=ValueHeadSettings(lr_scale=1e4, shares_model=False))
    ctx = context(engine, renderer=Renderer(engine.tokenizer))
    rollouts = answers(engine, {POOR: "poor"})[1:]
    method = Text2Grad(credit={"lam": 1.0, "value_clip": None}, kl_coef=0)
    errors = []
    for _ in range(60):
        ctx.metrics.clear()
        [term] = method.rows(ctx, rollouts)
        output = engine.forward_backward(term.rows, term.loss)
        engine.optim_step(AdamParams(lr=1e-5))
        errors.append(output.metrics["value_error"])
    assert errors[-1] < errors[0] / 4
    assert ctx.metrics["explained_variance"] > 0.5


# ── a whole run ───────────────────────────────────────────────────────────────────────────────────


class Scripted:
    """Calls an answer's first character good and its last one poor."""

    def critique(self, requests):  # type: ignore[no-untyped-def]
        found = []
        for request in requests:
            text = request.turn.text
            quotes = [(text[0], "good")] if text else []
            found.append(critique(text, quotes).model_copy(update={"turn": request.index}))
        return found


SETTINGS = {
    "settings": {
        "samples": 3, "kl_coef": 0.1, "kl_target": 0.01, "kl_horizon": 20, "kl": "full",
        "credit": {"kind": "gae", "value_lr_scale": 10.0},
    },
    "problems_per_step": 2,
    "steps": 4,
    "checkpoint_every": 2,
    "sampling": {"max_tokens": 4},
    "eval": {"problems": 0},
    "optim": {"lr": 1e-2, "passes": 2, "minibatches": 2},
}  # fmt: skip


def train(out: Path, model: Path) -> Path:
    didact.train("text2grad", out=out, model=str(model), task="spell_backward", **SETTINGS)
    return out


def test_a_run_with_a_critic_goes_on_bit_for_bit(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "make_critic", lambda *_, **__: Scripted())
    whole = train(tmp_path / "whole", model)
    written = loop.RunDir.add_metrics

    def dies(self: loop.RunDir, record: dict[str, object]) -> None:
        if record["step"] == 3:
            raise RuntimeError("the lights went out")
        written(self, record)

    monkeypatch.setattr(loop.RunDir, "add_metrics", dies)
    with pytest.raises(RuntimeError, match="lights"):
        train(tmp_path / "cut", model)
    monkeypatch.setattr(loop.RunDir, "add_metrics", written)
    cut = tmp_path / "cut"
    didact.resume(cut)
    for name in ("metrics.jsonl", "rollouts.jsonl", "feedback.jsonl", "result.json"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes(), name
    for file in (whole / "checkpoints" / "step-000004").iterdir():
        assert file.read_bytes() == (cut / "checkpoints" / "step-000004" / file.name).read_bytes(), file.name

    records = list(read_jsonl(whole / "metrics.jsonl"))
    assert records[0]["kl"] == 0
    assert records[0]["kl_coef"] == 0.1
    assert {record["unrevised"] for record in records} == {0}  # nothing was to be revised
    assert len({record["kl_coef"] for record in records}) == 4  # it adapts, and came through the resume
    assert all("explained_variance" in r and "value_error/rl" in r and r["tokens_good"] > 0 for r in records)
    assert json.loads((whole / "result.json").read_text())["updates"] == 4 * 2 * 2
    engine = make_engine(model)
    state, _ = load_checkpoint(whole / "checkpoints", engine)
    assert state is not None
    assert state.method_state["kl_coef"] != records[-1]["kl_coef"]
    assert np.abs(engine._trained["value_head.weight"].detach().numpy()).max() > 0
    plain, info = AutoModelForCausalLM.from_pretrained(whole / "model", output_loading_info=True)
    assert not info["unexpected_keys"]
    torch.testing.assert_close(plain.model.norm.weight.detach(), engine.model.model.norm.weight.detach())


class Silent:
    """Says something about every answer and quotes none."""

    def critique(self, requests):  # type: ignore[no-untyped-def]
        return [critique(r.turn.text, []).model_copy(update={"turn": r.index}) for r in requests]


@pytest.mark.parametrize("credit", ["direct", "gae"])
def test_a_run_whose_critic_never_quotes_says_so(
    credit: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "make_critic", lambda *_, **__: Silent())
    settings = {"samples": 2, "kl_coef": 0, "credit": credit}
    with pytest.raises(NoOpTrainingError, match="spans_misquoted") as stopped:
        didact.train(
            "text2grad", out=tmp_path / "run", model=str(model), task="spell_backward",
            **{**SETTINGS, "settings": settings, "steps": 1},
        )  # fmt: skip
    assert "reward" not in str(stopped.value)
    assert "optim.lr" not in str(stopped.value)
