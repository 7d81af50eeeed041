"""Settings that every method with a policy loss has: clip-higher, the normaliser, the entropy bonus."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import didact
from didact.advantages import Array
from didact.engines.base import Capabilities, Loss, SamplingParams, refuse_unsupported
from didact.engines.local.scoring import KL_PART, entropy_of
from didact.errors import CapabilityError
from didact.losses import LossOutput, ppo, with_entropy
from didact.methods import make_method
from didact.methods.base import PolicyGradientMethod
from didact.registry import METHODS
from didact.run_dir import read_jsonl
from didact.types import Row
from tests.bigram import Bigram
from tests.models import save_model
from tests.test_rl2f import context, talk

POLICY_METHODS = [n for n in METHODS if isinstance(make_method(n), PolicyGradientMethod)]
CLIPPED = ["grpo", "rltf", "rltf-sd", "rltf-fm", "rltf-self", "rl2f"]


def weights_of(rows: list[Row]) -> list[list[float]]:
    """The weights of each row's trained tokens."""
    return [row.fields["weights"][row.fields["weights"] != 0].round(6).tolist() for row in rows]


# ── clip-higher ───────────────────────────────────────────────────────────────────────────────────


def test_every_method_with_a_policy_loss_has_the_settings() -> None:
    assert {"grpo", "rltf", "rltf-self", "rl2f", "text2grad", "ppo"} <= set(POLICY_METHODS)
    for name in POLICY_METHODS:
        method = make_method(name, {"normalise": "tokens", "entropy_coef": 0.01})
        assert method.needs_entropy
        assert not make_method(name).needs_entropy


@pytest.mark.parametrize("name", CLIPPED)
def test_clip_higher_is_the_upper_side_alone(name: str) -> None:
    symmetric = make_method(name, {"clip": 0.2}).policy_gradient
    assert symmetric == Loss("ppo", {"clip_low": 0.2, "clip_high": 0.2})
    assert make_method(name, {"clip": 0.2, "clip_high": 0.2}).policy_gradient == symmetric
    higher = make_method(name, {"clip": 0.2, "clip_high": 0.28}).policy_gradient
    assert higher == Loss("ppo", {"clip_low": 0.2, "clip_high": 0.28})
    with pytest.raises(Exception, match=r"clip=0\.2"):
        make_method(name, {"clip_high": 0.28})


@pytest.mark.parametrize("name", ["ppo", "text2grad"])
@pytest.mark.parametrize("kind", ["gae", "critic_free"])
def test_clip_higher_of_token_level_methods(name: str, kind: str) -> None:
    credit = make_method(name, {"credit": {"kind": kind, "clip": 0.1, "clip_high": 0.3}}).credit
    assert {k: v for k, v in credit.loss({}).settings.items() if "clip_" in k and "value" not in k} == {
        "clip_low": 0.1,
        "clip_high": 0.3,
    }
    plain = make_method(name, {"credit": {"kind": kind, "clip": 0.1}}).credit.loss({}).settings
    assert (plain["clip_low"], plain["clip_high"]) == (0.1, 0.1)


@pytest.mark.parametrize("weighting", ["ppo", "cispo"])
def test_clip_higher_of_self_distillation(weighting: str) -> None:
    settings = {"sd_weighting": weighting, "sd_clip": 0.2}
    loss = make_method("rltf-sd", settings).sd_term(context(), []).loss
    assert loss == Loss(weighting, {"clip_low": 0.2, "clip_high": 0.2})
    loss = make_method("rltf-sd", settings | {"sd_clip_high": 5.0}).sd_term(context(), []).loss
    assert loss == Loss(weighting, {"clip_low": 0.2, "clip_high": 5.0})


def test_a_higher_clip_keeps_gradients_above_one_and_nothing_else() -> None:
    ratio = torch.tensor([[1.25, 1.35, 0.7, 1.25, 0.7]])
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0, 1.0]])
    leaf = torch.zeros(1, 5, requires_grad=True)
    ppo(
        leaf,
        weights_BT=torch.ones(1, 5),
        advantages_BT=advantages,
        old_logprobs_BT=-ratio.log(),
        clip_low=0.2,
        clip_high=0.28,
    ).loss.backward()
    # A lower loss is a likelier token where A > 0: −ρ A, and 0 where the clip binds.
    torch.testing.assert_close(leaf.grad, torch.tensor([[-1.25, 0.0, 0.0, 1.25, -0.7]]))


# ── normalisers ───────────────────────────────────────────────────────────────────────────────────

BATCH = [talk("a", right=True), talk("xyz", "a", right=True), talk("xxxxx", "yy")]
"""Each answer has an end token too: lengths 2, 4 + 2 and 6 + 3, 17 tokens."""


@pytest.mark.parametrize(
    ("normalise", "expected"),
    [
        ("dialogues", [{1 / 3}, {1 / 3}, {1 / 3}]),
        ("tokens", [{1 / 17}, {1 / 17}, {1 / 17}]),
        ("answers", [{1 / 6}, {1 / 12, 1 / 6}, {1 / 18, 1 / 9}]),
    ],
)
def test_the_weights_of_rl2f_by_hand(normalise: str, expected: list[set[float]]) -> None:
    method = make_method("rl2f", {"normalise": normalise, "turns": 3, "lambda_wm": 0})
    (term,) = method.rows(context(), BATCH)
    found = [set(row) for row in weights_of(term.rows)]
    assert [sorted(row) for row in found] == [pytest.approx(sorted(row), abs=1e-6) for row in expected]


@pytest.mark.parametrize(
    ("normalise", "expected"),
    # A failed teacher's dialogue is in no divisor: M = 2, 2 + 6 tokens.
    [("dialogues", [1 / 2, 1 / 2]), ("tokens", [1 / 8, 1 / 8]), ("answers", [1 / 4, 1 / 12])],
)
def test_the_weights_of_grpo_by_hand(normalise: str, expected: list[float]) -> None:
    method = make_method("grpo", {"normalise": normalise, "turns": 2})
    batch = [talk("a", right=True), talk("xxxxx"), talk("xyz", failed=True)]
    (term,) = method.rows(context(), batch)
    assert [min(row) for row in weights_of(term.rows)] == pytest.approx(expected, abs=1e-6)
    assert [max(row) for row in weights_of(term.rows)] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("normalise", ["dialogues", "tokens", "answers"])
def test_self_distillation_is_divided_like_the_policy_gradient(normalise: str) -> None:
    """Each of one dialogue's terms has its λ times the other's weight, whatever divides both."""
    method = make_method("rltf", {"normalise": normalise, "lambda_sd": 0.1, "lambda_fm": 0})
    batch = [talk("xyz", "aa", right=True), talk("xx", "b")]
    terms = {term.name: term for term in method.rows(context(), batch)}
    second = {tuple(r.target_ids[r.fields["weights"] != 0].tolist()): r for r in terms["rl"].rows}
    assert len(terms["sd"].rows) == 1
    (row,) = terms["sd"].rows
    other = second[tuple(row.target_ids[row.fields["weights"] != 0].tolist())]
    assert row.fields["weights"].max() == pytest.approx(0.1 * other.fields["weights"].max())


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 10**6))
def test_the_three_divisors_are_means(lengths: list[int], seed: int) -> None:
    """`answers` is a mean of means, `tokens` a mean of tokens, `dialogues` a mean of sums."""
    turns = [talk("x" * n).turns[0] for n in lengths]
    values = [np.random.default_rng(seed + i).normal(size=n + 1) for i, n in enumerate(lengths)]

    def total(normalise: str) -> float:
        divisor = make_method("grpo", {"normalise": normalise}).divisor(len(turns), turns)
        return sum(float(v.sum()) / divisor(turn) for v, turn in zip(values, turns, strict=True))

    assert total("dialogues") == pytest.approx(np.mean([v.sum() for v in values]))
    assert total("answers") == pytest.approx(np.mean([v.mean() for v in values]))
    assert total("tokens") == pytest.approx(np.concatenate(values).mean())


class Scored(make_method("text2grad").__class__):
    """Rewards of 1 at every token."""

    def token_rewards(self, ctx: Any, rollouts: Any) -> list[Array | None]:
        return [np.ones(len(rollout.turns[0].completion_ids)) for rollout in rollouts]


@pytest.mark.parametrize(
    ("normalise", "expected"),
    [("dialogues", [1 / 2, 1 / 2]), ("tokens", [1 / 8, 1 / 8]), ("answers", [1 / 4, 1 / 12])],
)
def test_the_weights_of_token_level_methods_by_hand(normalise: str, expected: list[float]) -> None:
    method = Scored(normalise=normalise, credit="direct", kl_coef=0)
    (term,) = method.rows(context(), [talk("a"), talk("xxxxx")])
    assert [min(row) for row in weights_of(term.rows)] == pytest.approx(expected, abs=1e-6)
    assert [max(row) for row in weights_of(term.rows)] == pytest.approx(expected, abs=1e-6)


# ── entropy bonus ─────────────────────────────────────────────────────────────────────────────────


def test_the_entropy_and_its_gradient_are_those_of_autograd_in_float64() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(KL_PART + 7, 11, generator=draw, dtype=torch.float64)
    ours, theirs = (logits.clone().requires_grad_(True) for _ in range(2))
    weights = torch.rand(len(logits), generator=draw, dtype=torch.float64)
    (weights * entropy_of(ours)).sum().backward()
    expected = torch.distributions.Categorical(logits=theirs).entropy()
    (weights * expected).sum().backward()
    torch.testing.assert_close(entropy_of(logits), expected.detach())
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_token_of_probability_zero_has_no_entropy_and_no_gradient() -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf]], requires_grad=True)
    entropy_of(logits).sum().backward()
    assert float(entropy_of(logits).detach()) == pytest.approx(np.log(2))
    assert torch.isfinite(logits.grad).all()
    assert entropy_of(torch.zeros(0, 5)).shape == (0,)


def test_the_bonus_lowers_the_loss_by_hand() -> None:
    """A wrong sign would raise it: −1 − 0.1 (2 · 0.5 + 3 · 1)."""
    given_ = LossOutput(torch.tensor(-1.0), {"tokens": 2.0})
    entropy = torch.tensor([0.5, 1.0, 7.0])
    output = with_entropy(given_, entropy, torch.tensor([2.0, 3.0, 0.0]), 0.1)
    assert float(output.loss) == pytest.approx(-1.4)
    assert output.metrics == {"tokens": 2.0, "entropy": pytest.approx(1.5)}
    with pytest.raises(ValueError, match="weights_N"):
        with_entropy(given_, entropy, torch.ones(2), 0.1)


@pytest.mark.parametrize("name", CLIPPED)
def test_with_a_bonus_answers_without_an_advantage_are_trained(name: str) -> None:
    settings = {"rl2f": {"turns": 3}}.get(name, {})
    equal = [talk("x", "y"), talk("y", "z")] if name != "rltf-self" else [talk("x"), talk("y")]
    rows = {
        c: sum(
            len(t.rows)
            for t in make_method(name, {**settings, "entropy_coef": c}).rows(context(), equal)
            if t.name == "rl"
        )
        for c in (0.0, 0.01)
    }
    assert rows[0.0] == 0
    assert rows[0.01] >= 2
    loss = make_method(name, {"entropy_coef": 0.01}).policy_gradient
    assert loss == Loss("policy_gradient", {}, entropy_coef=0.01)


def test_with_a_bonus_token_level_answers_without_an_advantage_are_trained() -> None:
    class Silent(Scored):
        def token_rewards(self, ctx: Any, rollouts: Any) -> list[Array | None]:
            return [np.zeros(len(rollout.turns[0].completion_ids)) for rollout in rollouts]

    batch = [talk("a"), talk("xxxxx")]
    assert Silent(credit="direct", kl_coef=0).rows(context(), batch) == []
    (term,) = Silent(credit="direct", kl_coef=0, entropy_coef=0.5).rows(context(), batch)
    assert term.loss.entropy_coef == 0.5
    assert len(term.rows) == 2


def test_a_negative_coefficient_is_refused() -> None:
    with pytest.raises(ValidationError):
        Scored(entropy_coef=-0.1)


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("grpo", {"clip": 0.2, "clip_high": 0.28}),
        ("rltf", {"clip": 0.2, "clip_high": 0.28}),
        ("rl2f", {"turns": 2}),
        ("ppo", {"credit": {"kind": "gae", "clip_high": 0.28}}),
    ],
)
def test_a_run_with_every_setting(method: str, own: dict[str, Any], tmp_path: Path) -> None:
    settings = {"samples": 2, "normalise": "tokens", "entropy_coef": 0.01, **own}
    sampling = {"max_tokens": 8, "min_tokens": 3, "repetition_penalty": 1.2}
    run = didact.train(
        method,
        out=tmp_path / "run",
        model=str(save_model(tmp_path / "model")),
        task="spell_backward",
        settings=settings,
        sampling=sampling,
        steps=2,
        problems_per_step=2,
        optim={"passes": 2},
        eval={"problems": 2},
    )
    steps = [r for r in read_jsonl(run.metrics) if "eval" not in r]
    # Two passes over the trained tokens; H is between 0 and log V.
    for record in steps:
        per_token = record["entropy/rl"] / record["tokens/rl"]
        assert 0 < per_token < np.log(400)
        assert record["length_first"] > 3


# ── what an engine cannot do ──────────────────────────────────────────────────────────────────────


def test_an_engine_that_cannot_refuses_and_names_the_cure() -> None:
    engine = Bigram(capabilities=Capabilities())
    refuse_unsupported(engine)  # type: ignore[arg-type]
    with pytest.raises(CapabilityError, match=r"settings\.entropy_coef=0"):
        refuse_unsupported(engine, entropy=True)  # type: ignore[arg-type]
    with pytest.raises(CapabilityError, match=r"sampling\.min_tokens=0"):
        refuse_unsupported(engine, penalties=True)  # type: ignore[arg-type]
    able = Bigram(capabilities=dataclasses.replace(Capabilities(), entropy=True, penalties=True))
    refuse_unsupported(able, entropy=True, penalties=True)  # type: ignore[arg-type]


def test_plain_sampling_has_nothing_switched_on() -> None:
    assert SamplingParams().plain
    changes: list[dict[str, Any]] = [
        {"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 5}, {"repetition_penalty": 1.1}, {"min_tokens": 2},
    ]  # fmt: skip
    for change in changes:
        assert not SamplingParams(**change).plain
    assert [SamplingParams(**c).penalised for c in changes] == [False, False, False, True, True]
