"""GRPO, RLTF and SFT against their equations."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from didact.engines.base import Loss
from didact.errors import DataError, UsageError
from didact.methods import GRPO, RLTF, SFT, make_method
from didact.prompts import CRITIQUE_REQUEST
from didact.types import Rollout
from tests.helpers import (
    CountingCritic,
    ScriptedEngine,
    advantages,
    context,
    dialogue,
    gradient,
    turn,
)

# ── GRPO ──────────────────────────────────────────────────────────────────────────────────────────


def test_one_turn_advantages_are_centred_within_the_group() -> None:
    rollouts = [
        dialogue(1.0, group="a"),
        dialogue(0.0, group="a"),
        dialogue(0.0, group="b"),
        dialogue(0.0, group="b"),
    ]
    (term,) = GRPO().rows(context(), rollouts)
    assert advantages(term) == [0.5, -0.5]  # group b is constant: no row
    assert [row.fields["weights"].tolist() for row in term.rows] == [[0.25], [0.25]]  # 1/M, M = 4


def test_a_group_of_constant_reward_gives_no_update() -> None:
    assert GRPO().rows(context(), [dialogue(0.0), dialogue(0.0)]) == []
    assert GRPO().rows(context(), [dialogue(1.0), dialogue(1.0)]) == []


def test_two_turn_advantages_are_those_of_the_papers_algorithm_1() -> None:
    # r0 = 1 1 0 0 0 0 0 0, all wrong ones right at turn 2, γ = 0.1 (spec A3: +0.675 and −0.225).
    rollouts = [dialogue(1.0), dialogue(1.0), *(dialogue(0.0, 1.0) for _ in range(6))]
    (term,) = GRPO(turns=2, gamma=0.1).rows(context(), rollouts)
    assert advantages(term) == pytest.approx([0.675] * 2 + [-0.225] * 6)  # A₁ is 0: all revisions are right


def test_with_gamma_one_a_late_success_is_as_good_as_an_early_one() -> None:
    rollouts = [dialogue(1.0), dialogue(0.0, 1.0)]
    assert GRPO(turns=2, gamma=1.0).rows(context(), rollouts) == []


def test_second_turns_are_compared_with_second_turns_only() -> None:
    rollouts = [dialogue(1.0), dialogue(0.0, 1.0), dialogue(0.0, 0.0)]
    (term,) = GRPO(turns=2, gamma=0.0).rows(context(), rollouts)
    by_context = {}
    for row, value in zip(term.rows, advantages(term), strict=True):
        by_context.setdefault(int(row.input_ids[-1]), []).append(value)
    assert by_context[1] == pytest.approx([2 / 3, -1 / 3, -1 / 3])
    assert by_context[2] == pytest.approx([0.5, -0.5])


def test_a_failed_critic_leaves_every_mean_and_every_row() -> None:
    good = [dialogue(1.0), dialogue(0.0, 1.0), dialogue(0.0, 0.0)]
    for method in (GRPO(turns=2), RLTF(lambda_fm=0.3)):
        with_failure = method.rows(context(), [*good, dialogue(0.0, failed=True)])
        without = method.rows(context(), good)
        assert [t.name for t in with_failure] == [t.name for t in without]
        for a, b in zip(with_failure, without, strict=True):
            assert same_rows(a.rows, b.rows)


def test_an_unverified_answer_is_missing_and_not_zero() -> None:
    (term,) = GRPO().rows(context(), [dialogue(1.0), dialogue(0.0), dialogue(None)])
    assert advantages(term) == [0.5, -0.5]


def unverified_revision() -> Rollout:
    rollout = dialogue(0.0, 1.0)
    lost = rollout.turns[1].model_copy(update={"reward": None, "correct": False})
    return rollout.model_copy(update={"turns": (rollout.turns[0], lost)})


def test_a_revision_that_nobody_could_verify_is_missing_and_not_zero() -> None:
    terms = GRPO(turns=2, gamma=1.0).rows(
        context(), [unverified_revision(), dialogue(0.0, 1.0), dialogue(0.0, 1.0)]
    )
    assert terms == [], "the two that are known are equal"


def test_one_known_answer_of_a_group_is_no_baseline() -> None:
    alone = [dialogue(0.0, 1.0), dialogue(0.0, failed=True), dialogue(0.0, failed=True)]
    assert RLTF(lambda_fm=0.0).rows(context(), alone) == []
    assert [t.name for t in RLTF(lambda_fm=0.0).rows(context(), [*alone, dialogue(0.0, 0.0)])] == ["rl", "sd"]


def test_division_by_the_standard_deviation_is_a_setting() -> None:
    (term,) = GRPO(divide_by_std=True).rows(context(), [dialogue(1.0), *(dialogue(0.0) for _ in range(3))])
    assert advantages(term) == pytest.approx([3**0.5, *[-(3**-0.5)] * 3], rel=1e-5)


def test_a_clip_brings_the_sampling_logprobs_along() -> None:
    (term,) = GRPO(clip=0.2).rows(context(), [dialogue(1.0), dialogue(0.0)])
    assert term.loss == Loss("ppo", {"clip_low": 0.2, "clip_high": 0.2})
    assert [row.fields["old_logprobs"].tolist() for row in term.rows] == [[-1.0], [-1.0]]


def test_a_kl_penalty_keeps_rows_without_advantage_and_scores_them_under_the_reference() -> None:
    class Scorer(ScriptedEngine):
        def logprobs(self, rows, *, weights):  # type: ignore[no-untyped-def]
            assert weights.name == "reference"
            return [np.full(len(row), -3.0, np.float32) for row in rows]

    ctx = context(Scorer(lambda text, j: "a"))
    (term,) = GRPO(kl_coef=0.1).rows(ctx, [dialogue(0.0), dialogue(0.0)])
    assert term.loss.settings == {"kl_coef": 0.1}
    assert [row.fields["ref_logprobs"].tolist() for row in term.rows] == [[-3.0], [-3.0]]


# ── RLTF ──────────────────────────────────────────────────────────────────────────────────────────

BATCH = [
    dialogue(1.0),
    dialogue(0.0, 1.0),
    dialogue(0.0, 0.0),
    dialogue(0.0, 1.0, group="b"),
    dialogue(0.0, 0.0, group="b"),
]


def same_rows(a, b) -> bool:  # type: ignore[no-untyped-def]
    return len(a) == len(b) and all(
        x.input_ids.tolist() == y.input_ids.tolist()
        and x.target_ids.tolist() == y.target_ids.tolist()
        and {k: v.tolist() for k, v in x.fields.items()} == {k: v.tolist() for k, v in y.fields.items()}
        for x, y in zip(a, b, strict=True)
    )


def test_without_its_two_terms_rltf_is_two_turn_grpo_exactly() -> None:
    ours = RLTF(lambda_sd=0.0, lambda_fm=0.0).rows(context(), BATCH)
    grpo = GRPO(turns=2).rows(context(), BATCH)
    assert [(t.name, t.loss) for t in ours] == [(t.name, t.loss) for t in grpo]
    assert all(same_rows(a.rows, b.rows) for a, b in zip(ours, grpo, strict=True))


def test_self_distillation_trains_the_plain_prompt_on_the_revision() -> None:
    rows = RLTF(lambda_sd=0.5).sd_term(context(), BATCH).rows
    # Group g: b = 1/3, revisions 1 and 0. Group b: b = 0, so the wrong revision has advantage 0.
    assert [float(r.fields["advantages"][-1]) for r in rows] == pytest.approx([2 / 3, -1 / 3, 1.0])
    assert all(r.input_ids.tolist() == [1] and r.target_ids.tolist() == [6] for r in rows)
    assert [r.fields["weights"].tolist() for r in rows] == [pytest.approx([0.5 / 5])] * 3


def test_the_first_turn_baseline_vanishes_only_where_the_student_succeeds() -> None:
    solved_at_second = [dialogue(0.0, 1.0), dialogue(0.0, 1.0)]
    assert len(RLTF().sd_term(context(), solved_at_second).rows) == 2
    solved_at_first = [dialogue(1.0, 1.0), dialogue(1.0, 1.0)]
    assert RLTF().sd_term(context(), solved_at_first).rows == []


def test_the_ramp_raises_self_distillation_from_zero() -> None:
    method = RLTF(lambda_sd=0.4, lambda_sd_ramp=0.5)
    strengths = [
        [float(r.fields["weights"][-1]) for r in method.sd_term(context(progress=p), BATCH).rows][:1]
        for p in (0.0, 0.25, 0.5, 1.0)
    ]
    assert strengths == [[], pytest.approx([0.2 / 5]), pytest.approx([0.4 / 5]), pytest.approx([0.4 / 5])]


def test_the_mask_drops_tokens_that_the_plain_prompt_makes_unlikely() -> None:
    class Scorer(ScriptedEngine):
        def logprobs(self, rows, *, weights=None):  # type: ignore[no-untyped-def]
            return [np.array([-4.9 if i else -5.1], np.float32) for i, _ in enumerate(rows)]

    ctx = context(Scorer(lambda text, j: "a"))
    rows = RLTF(mask_below=-5.0).sd_term(ctx, BATCH).rows
    assert [float(r.fields["weights"][-1]) > 0 for r in rows] == [False, True, True]


def test_feedback_modelling_trains_only_the_critiques_tokens() -> None:
    ctx = context()
    rows = RLTF(lambda_fm=0.5).fm_term(ctx, [dialogue(1.0), dialogue(0.0, 1.0)]).rows
    (row,) = rows  # a right first answer was not criticised
    critique = ctx.renderer.answer("mend it")
    assert tuple(row.target_ids[-len(critique) :]) == critique
    assert row.fields["weights"][-len(critique) :].tolist() == [0.25] * len(critique)
    assert not row.fields["weights"][: -len(critique)].any()
    assert CRITIQUE_REQUEST in ctx.renderer.text(row.input_ids)


def test_the_critique_never_reaches_the_plain_prompts_row() -> None:
    engine = ScriptedEngine(lambda text, j: "a" if "wrong" in text else "b")
    ctx = context(engine, CountingCritic())
    method = RLTF()
    rollouts = method.collect(ctx, [ctx.task.train_problem(0)])
    for row in method.sd_term(ctx, rollouts).rows:
        assert "wrong" not in ctx.renderer.text(row.input_ids)
        assert ctx.renderer.text(row.input_ids).startswith("User: q0")


# ── the 3-armed bandit, enumerated ────────────────────────────────────────────────────────────────

PLAIN = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)  # π(·|x₀)
TOLD = torch.tensor([0.5, 0.4, -1.0], dtype=torch.float64)  # π(·|x₁)
REWARD = (0.0, 1.0, 0.25)
N = 2


def true_gradient() -> np.ndarray:
    value = (PLAIN.softmax(-1) * torch.tensor(REWARD, dtype=torch.float64)).sum()
    return torch.autograd.grad(value, PLAIN)[0].numpy()


def expected_sd_gradient(*, importance: bool, sign: float = 1.0) -> np.ndarray:
    """E[−∇ loss] over all outcomes of N dialogues, with the library's own rows."""
    p0, p1 = PLAIN.detach().softmax(-1).numpy(), TOLD.softmax(-1).numpy()
    method = RLTF(lambda_sd=1.0, lambda_fm=0.0, early_stop=False)
    total = np.zeros(3)
    for arms in itertools.product(itertools.product(range(3), repeat=2), repeat=N):
        probability = np.prod([p0[a0] * p1[a1] for a0, a1 in arms])
        rollouts = [bandit_dialogue(a0, a1, i, np.log(p1[a1])) for i, (a0, a1) in enumerate(arms)]
        rows = method.sd_term(context(), rollouts).rows
        loss = Loss("policy_gradient")
        if importance:
            loss = Loss("importance_sampling")
            rows = [
                dataclasses.replace(
                    r, fields={**r.fields, "old_logprobs": np.log(p1[r.target_ids]).astype(np.float64)}
                )
                for r in rows
            ]
        total -= sign * probability * gradient([(loss, rows)], {1: PLAIN}, PLAIN)
    return total


def bandit_dialogue(a0: int, a1: int, i: int, logprob: float) -> Rollout:
    base = dialogue(0.0, 0.0)
    turns = (turn((1,), a0, 0.0, REWARD[a0]), turn((2,), a1, float(logprob), REWARD[a1]))
    return base.model_copy(update={"id": str(i), "turns": turns})


def test_with_importance_weights_the_expected_sd_gradient_is_the_true_one() -> None:
    np.testing.assert_allclose(expected_sd_gradient(importance=True), true_gradient(), atol=1e-7)


def test_without_importance_weights_it_is_another_vector() -> None:
    assert np.abs(expected_sd_gradient(importance=False) - true_gradient()).max() > 0.01


def test_a_flipped_sign_would_be_seen() -> None:
    flipped = expected_sd_gradient(importance=True, sign=-1.0)
    assert np.abs(flipped - true_gradient()).max() > 0.1


def test_the_expected_grpo_gradient_is_the_true_one_but_for_the_mean_of_n() -> None:
    p0 = PLAIN.detach().softmax(-1).numpy()
    total = np.zeros(3)
    for arms in itertools.product(range(3), repeat=N):
        rollouts = [
            dialogue(0.0).model_copy(update={"id": str(i), "turns": (turn((1,), a, 0.0, REWARD[a]),)})
            for i, a in enumerate(arms)
        ]
        for term in GRPO().rows(context(), rollouts):
            total -= np.prod(p0[list(arms)]) * gradient([(term.loss, term.rows)], {1: PLAIN}, PLAIN)
    np.testing.assert_allclose(total, (1 - 1 / N) * true_gradient(), atol=1e-7)


# ── SFT and the registry ──────────────────────────────────────────────────────────────────────────


def test_sft_trains_references_with_their_end() -> None:
    ctx = context()
    problems = [ctx.task.train_problem(i) for i in range(2)]
    (term,) = SFT().rows(ctx, SFT().collect(ctx, problems))
    assert term.loss == Loss("cross_entropy")
    assert [tuple(r.target_ids[-2:]) for r in term.rows] == [(ord("a"), 0)] * 2
    assert [r.fields["weights"].sum() for r in term.rows] == pytest.approx([1.0, 1.0])  # 2 tokens / M


def test_sft_samples_no_tokens() -> None:
    ctx = context()
    assert [r.sampled_tokens for r in SFT().collect(ctx, [ctx.task.train_problem(0)])] == [0]


def test_sft_without_a_reference_says_so() -> None:
    ctx = context()
    problem = ctx.task.train_problem(0).model_copy(update={"reference": None})
    with pytest.raises(DataError, match="problem '0'"):
        SFT().collect(ctx, [problem])


def test_names_make_methods_with_their_defaults() -> None:
    grpo = GRPO()
    assert (grpo.samples, grpo.turns, grpo.gamma, grpo.early_stop) == (8, 1, 0.1, True)
    assert (grpo.divide_by_std, grpo.kl_coef) == (False, 0.0)
    sd, fm = make_method("rltf-sd"), make_method("rltf-fm")
    assert (sd.lambda_sd, sd.lambda_fm, fm.lambda_sd, fm.lambda_fm) == (0.1, 0.0, 0.0, 0.2)  # type: ignore[attr-defined]
    assert make_method("rltf", {"lambda_sd": 1}).lambda_sd == 1.0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "settings", "cure"),
    [
        ("rltf-ds", {}, "did you mean 'rltf-sd'"),
        ("grpo", {"sampels": 4}, "did you mean 'samples'"),
        ("grpo", {"samples": 1}, "samples = 1: Input should be greater than or equal to 2"),
        ("rltf-sd", {"turns": 1}, "turns = 1"),
    ],
)
def test_a_wrong_name_or_value_is_answered_with_the_nearest_right_one(name, settings, cure) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=cure):
        make_method(name, settings)


def test_what_a_model_says_too_long_is_skipped_and_not_an_error() -> None:
    ctx = context()
    rollouts = [dialogue(0.0, 1.0), dialogue(1.0), dialogue(0.0, 0.0)]
    every = RLTF(lambda_fm=0.3).fm_term(ctx, rollouts).rows
    ctx.engine.max_length = max(map(len, every)) - 1
    assert RLTF(lambda_fm=0.3).fm_term(ctx, rollouts).rows == []


def test_a_dialogue_whose_revision_did_not_fit_has_a_first_turn_and_no_second() -> None:
    unfit = dialogue(0.0, 1.0)
    unfit = unfit.model_copy(update={"turns": unfit.turns[:1]})
    (term,) = GRPO(turns=2, gamma=0.5).rows(context(), [dialogue(0.0, 1.0), unfit, dialogue(1.0)])
    assert advantages(term) == pytest.approx([0.0, -0.5, 0.5][1:])
    (sd,) = (t for t in RLTF(lambda_fm=0).rows(context(), [dialogue(0.0, 1.0), unfit]) if t.name == "sd")
    assert advantages(sd) == [1.0]
