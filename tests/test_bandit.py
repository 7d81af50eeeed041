"""Gradients of whole methods, enumerated: every outcome of a small world, weighted by its probability.

A policy is a table of logits by context. Prompts are one id: 1 is the plain question x₀, 2 the question with
a critique x₁, 3 the request for a critique. E[−∇ loss] with the library's own rows is compared with the
gradient that theory asks for, worked out here without the library.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from didact import losses
from didact.methods import GRPO, RLTF, LossTerm, SelfCritiqueRL
from didact.methods.rltf import BASELINES, WEIGHTINGS
from didact.rollouts.self_critique_rollout import SampledCritique, branch_id
from didact.types import Ids, Rollout, Row, Turn
from tests.helpers import CRITIC, ScriptedEngine, context, dialogue

Table = dict[Ids, Tensor]


def logits(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def row_logprobs(table: Table, row: Row) -> Tensor:
    ids = [*map(int, row.input_ids)]
    return torch.stack(
        [table[tuple(ids[: t + 1])].log_softmax(-1)[int(target)] for t, target in enumerate(row.target_ids)]
    )


class TableEngine(ScriptedEngine):
    """Scores rows under a table of logits."""

    def __init__(self, table: Table) -> None:
        super().__init__(lambda text, j: "a")
        self.table = table

    def logprobs(self, rows, *, weights=None):  # type: ignore[no-untyped-def]
        return [row_logprobs(self.table, row).detach().numpy() for row in rows]


def objective(terms: Iterable[LossTerm], table: Table) -> Tensor:
    """Minus the summed losses: what a step climbs."""
    total = torch.zeros((), dtype=torch.float64)
    for term in terms:
        for row in term.rows:
            fields = {f"{k}_BT": torch.tensor(np.asarray(v, np.float64))[None] for k, v in row.fields.items()}
            loss = losses.BUILTIN[term.loss.name]
            total = total - loss(row_logprobs(table, row)[None], **fields, **term.loss.settings).loss
    return total


def gradient(value: Tensor, of: Tensor) -> np.ndarray:
    if not value.requires_grad:
        return np.zeros(of.shape)
    (found,) = torch.autograd.grad(value, of, retain_graph=True, allow_unused=True)
    return np.zeros(of.shape) if found is None else found.numpy()


def answer(table: Table, prompt: Ids, ids: Ids, reward: float) -> Turn:
    """A turn with its true log-probs under the table."""
    row = Row.from_completion(prompt, ids)
    found = row_logprobs(table, row).detach().tolist()
    return Turn(
        prompt_ids=prompt, completion_ids=ids, logprobs=tuple(found), text=str(ids), stop_reason="eos",
        reward=reward,
    )  # fmt: skip


def chance(turns: Sequence[Turn]) -> float:
    return float(np.exp(sum(sum(t.logprobs or ()) for t in turns)))


def rollout(turns: Sequence[Turn], name: str) -> Rollout:
    return dialogue(0.0, 0.0).model_copy(update={"id": name, "turns": tuple(turns)})


def groups_of(dialogues: Sequence[tuple[Turn, ...]], n: int) -> Iterable[tuple[float, list[Rollout]]]:
    """Every group of n independent dialogues with its probability."""
    chances = [chance(turns) for turns in dialogues]
    assert sum(chances) == pytest.approx(1)
    for picks in itertools.product(range(len(dialogues)), repeat=n):
        rollouts = [rollout(dialogues[k], str(i)) for i, k in enumerate(picks)]
        yield float(np.prod([chances[k] for k in picks])), rollouts


# ── one token, three arms: every baseline with every weighting ────────────────────────────────────

PLAIN, TOLD = logits(0.3, -0.2, 0.1), logits(0.5, 0.4, -1.0)
BANDIT: Table = {(1,): PLAIN, (2,): TOLD}
REWARD = (0.0, 1.0, 0.25)
P0, P1 = (t.detach().softmax(-1).numpy() for t in (PLAIN, TOLD))
SCORES = np.eye(3) - P0  # ∇ log π(a|x₀) by row
TRUE = sum(P0[a] * REWARD[a] * SCORES[a] for a in range(3))
CLIP = 0.2


def bandit_dialogues(*, early_stop: bool = False) -> list[tuple[Turn, ...]]:
    firsts = [answer(BANDIT, (1,), (a,), REWARD[a]) for a in range(3)]
    seconds = [answer(BANDIT, (2,), (a,), REWARD[a]) for a in range(3)]
    return [
        turns
        for first in firsts
        for turns in ([(first,)] if early_stop and first.correct else [(first, s) for s in seconds])
    ]


def expected_sd(
    *, n: int = 2, early_stop: bool = False, sign: float = 1.0, table: Table = BANDIT,
    dialogues: Sequence[tuple[Turn, ...]] | None = None, of: Tensor = PLAIN, **settings: object,
) -> np.ndarray:  # fmt: skip
    """E[−∇ L_SD] over every outcome, with the library's own rows and losses."""
    method = RLTF(lambda_sd=1.0, early_stop=early_stop, sd_clip=CLIP, **settings)
    ctx = context(TableEngine(table))
    total = torch.zeros((), dtype=torch.float64)
    for probability, rollouts in groups_of(dialogues or bandit_dialogues(early_stop=early_stop), n):
        total = total + sign * probability * objective([method.sd_term(ctx, rollouts)], table)
    return gradient(total, of)


def by_hand(baseline: str, weighting: str) -> np.ndarray:
    """The same for N = 2, without the library."""
    total = np.zeros(3)
    for (a0, a1), (b0, b1) in itertools.product(itertools.product(range(3), repeat=2), repeat=2):
        probability = P0[a0] * P1[a1] * P0[b0] * P1[b1]
        for (mine0, mine1), (_, others1) in (((a0, a1), (b0, b1)), ((b0, b1), (a0, a1))):
            first_mean = (REWARD[a0] + REWARD[b0]) / 2
            taken = {
                "first_turn": first_mean,
                "second_turn": (REWARD[a1] + REWARD[b1]) / 2,
                "leave_one_out": REWARD[others1],
                "delta": REWARD[mine0],
                "none": 0.0,
            }[baseline]
            advantage, ratio = REWARD[mine1] - taken, P0[mine1] / P1[mine1]
            clipped = min(max(ratio, 1 - CLIP), 1 + CLIP)
            binds = ratio > 1 + CLIP if advantage > 0 else ratio < 1 - CLIP
            factor = {
                "awr": 1.0,
                "is": ratio,
                "token_is": ratio,
                "ppo": 0.0 if binds else ratio,
                "cispo": clipped,
            }[weighting]
            total += probability / 2 * factor * advantage * SCORES[mine1]
    return total


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("baseline", BASELINES)
def test_the_expected_gradient_is_that_of_the_formula(baseline: str, weighting: str) -> None:
    found = expected_sd(sd_baseline=baseline, sd_weighting=weighting)
    np.testing.assert_allclose(found, by_hand(baseline, weighting), atol=1e-6)


@pytest.mark.parametrize(
    ("baseline", "share"),
    [("first_turn", 1.0), ("second_turn", 0.5), ("leave_one_out", 1.0), ("delta", 1.0), ("none", 1.0)],
)
def test_with_the_answers_importance_weight_it_is_the_true_one(baseline: str, share: float) -> None:
    """The second turns' mean holds the answer's own reward: 1 − 1/N is left."""
    found = expected_sd(sd_baseline=baseline, sd_weighting="is")
    np.testing.assert_allclose(found, share * TRUE, atol=1e-6)


def test_the_second_turns_mean_leaves_two_thirds_of_three() -> None:
    found = expected_sd(n=3, sd_baseline="second_turn", sd_weighting="is")
    np.testing.assert_allclose(found, 2 / 3 * TRUE, atol=1e-6)


@pytest.mark.parametrize("weighting", ["awr", "ppo", "cispo"])
def test_without_it_or_with_a_clip_it_is_another_vector(weighting: str) -> None:
    found = expected_sd(sd_baseline="first_turn", sd_weighting=weighting)
    assert np.abs(found - TRUE).max() > 0.01


def test_a_flipped_sign_would_be_seen() -> None:
    flipped = expected_sd(sd_baseline="first_turn", sd_weighting="is", sign=-1.0)
    assert np.abs(flipped - TRUE).max() > 0.1


def test_early_stop_scales_the_true_gradient_by_the_share_of_wrong_first_answers() -> None:
    found = expected_sd(sd_baseline="first_turn", sd_weighting="is", early_stop=True)
    np.testing.assert_allclose(found, (1 - P0[1]) * TRUE, atol=1e-6)


def test_on_unsolved_questions_the_first_turn_baseline_is_rejection_sampling() -> None:
    """b⁽⁰⁾ = 0 where no first answer is right."""
    wrong = answer(BANDIT, (1,), (0,), 0.0)
    seconds = [answer(BANDIT, (2,), (a,), float(a == 1)) for a in range(3)]
    rollouts = [rollout((wrong, second), str(i)) for i, second in enumerate(seconds)]
    ctx = context(TableEngine(BANDIT))
    ours, rejection = (
        gradient(objective([RLTF(sd_baseline=b).sd_term(ctx, rollouts)], BANDIT), PLAIN)
        for b in ("first_turn", "none")
    )
    np.testing.assert_array_equal(ours, rejection)
    assert ours[1] > 0


def test_the_dialogues_own_gain_varies_more_than_the_gain_over_the_mean() -> None:
    """Var(r₁ − r₀) − Var(r₁ − b⁽⁰⁾) = (1 − 1/N) Var(r₀) where r₀ and r₁ are independent."""
    rewards = np.array(REWARD)
    moments = dict.fromkeys(("first_turn", "delta"), (0.0, 0.0))
    for a0, b0, a1 in itertools.product(range(3), repeat=3):
        probability = P0[a0] * P0[b0] * P1[a1]
        for name, (mean, square) in moments.items():
            value = BASELINES[name]([rewards[a1], 0.0], rewards[[a0, b0]], ["g", "g"])[0]
            moments[name] = (mean + probability * value, square + probability * value**2)
    variances = {name: square - mean**2 for name, (mean, square) in moments.items()}
    variance = P0 @ rewards**2 - (P0 @ rewards) ** 2
    assert variances["delta"] - variances["first_turn"] == pytest.approx(variance / 2)


# ── the signal that goes as feedback gets reliable ────────────────────────────────────────────────


@pytest.mark.parametrize(("p1", "alive"), [(0.8, 0.83), (0.9, 0.57), (0.95, 0.34), (0.99, 0.08)])
def test_the_second_turns_mean_loses_its_signal_as_revisions_get_reliable(p1: float, alive: float) -> None:
    outcomes = np.array([*itertools.product((0.0, 1.0), repeat=8)])
    probability = p1 ** outcomes.sum(1) * (1 - p1) ** (8 - outcomes.sum(1))
    groups = np.repeat(np.arange(len(outcomes)), 8).tolist()

    def share(advantages: np.ndarray) -> float:
        return float(probability[(advantages.reshape(-1, 8) != 0).any(1)].sum())

    second, unsolved = outcomes.ravel(), np.zeros(outcomes.size)
    found = share(BASELINES["second_turn"](second, unsolved, groups))
    assert found == pytest.approx(1 - p1**8 - (1 - p1) ** 8)
    assert round(found, 2) == alive
    assert share(BASELINES["leave_one_out"](second, unsolved, groups)) == pytest.approx(found)
    for kept in ("first_turn", "delta", "none"):
        assert share(BASELINES[kept](second, unsolved, groups)) == pytest.approx(1 - (1 - p1) ** 8)


@pytest.mark.parametrize(("gamma", "at_once", "after_feedback"), [(0.1, 0.675, -0.225), (1.0, 0.0, 0.0)])
def test_gamma_tells_right_at_once_from_right_after_feedback(
    gamma: float, at_once: float, after_feedback: float
) -> None:
    rollouts = [dialogue(1.0), dialogue(1.0), *(dialogue(0.0, 1.0) for _ in range(6))]
    found = GRPO(turns=2, gamma=gamma).advantages(rollouts)[:, 0]
    assert found.tolist() == pytest.approx([at_once] * 2 + [after_feedback] * 6)


# ── two tokens: the answer's ratio and the tokens' ratios part ────────────────────────────────────

SEQUENCES = [(a, b) for a in (0, 1) for b in (0, 1)]
PAIRS: Table = {
    (1,): logits(0.2, -0.1), (1, 0): logits(0.4, 0.0), (1, 1): logits(-0.3, 0.2),
    (2,): logits(-0.5, 0.6), (2, 0): logits(0.1, 0.7), (2, 1): logits(-0.8, 0.3),
}  # fmt: skip
PAIR_REWARD = dict(zip(SEQUENCES, (0.0, 0.3, 0.5, 1.0), strict=True))


def pair_dialogues() -> list[tuple[Turn, ...]]:
    return [
        (answer(PAIRS, (1,), y0, PAIR_REWARD[y0]), answer(PAIRS, (2,), y1, PAIR_REWARD[y1]))
        for y0 in SEQUENCES
        for y1 in SEQUENCES
    ]


def pair_truth(of: Tensor) -> np.ndarray:
    value = torch.zeros((), dtype=torch.float64)
    for ids, reward in PAIR_REWARD.items():
        value = value + reward * row_logprobs(PAIRS, Row.from_completion((1,), ids)).sum().exp()
    return gradient(value, of)


@pytest.mark.parametrize(("weighting", "unbiased"), [("is", True), ("token_is", False), ("awr", False)])
def test_only_the_whole_answers_ratio_is_unbiased_on_answers_of_two_tokens(
    weighting: str, unbiased: bool
) -> None:
    first = PAIRS[(1,)]
    found = expected_sd(table=PAIRS, dialogues=pair_dialogues(), of=first, sd_weighting=weighting)
    assert np.allclose(found, pair_truth(first), atol=1e-6) is unbiased
    if unbiased:
        later = PAIRS[(1, 1)]
        found = expected_sd(table=PAIRS, dialogues=pair_dialogues(), of=later, sd_weighting=weighting)
        np.testing.assert_allclose(found, pair_truth(later), atol=1e-6)


# ── three turns, and two branches ─────────────────────────────────────────────────────────────────


def test_of_three_turns_each_climbs_what_is_still_to_come() -> None:
    """E[ĝ] is 1 − 1/N of ∇ E[G_h] in the context of turn h, G₀ = r₀ + γ r₁ + γ² r₂."""
    table: Table = {(1,): logits(0.3, -0.2), (2,): logits(0.5, -0.4), (3,): logits(-0.1, 0.6)}
    gamma, n = 0.5, 2
    rewards = np.random.Generator(np.random.Philox(7)).random((3, 2, 2, 2))  # of every turn, by all answers
    dialogues, returns = [], []
    for a in itertools.product(range(2), repeat=3):
        seen = [a[: h + 1] + (0,) * (2 - h) for h in range(3)]  # a turn's reward knows no later turn
        r = [float(rewards[(h, *seen[h])]) for h in range(3)]
        dialogues.append(tuple(answer(table, (h + 1,), (a[h],), r[h]) for h in range(3)))
        returns.append([r[0] + gamma * r[1] + gamma**2 * r[2], r[1] + gamma * r[2], r[2]])
    method, ctx = GRPO(turns=3, gamma=gamma, early_stop=False), context(TableEngine(table))
    climbed = sum(
        (p * objective(method.rows(ctx, rollouts), table) for p, rollouts in groups_of(dialogues, n)),
        torch.zeros((), dtype=torch.float64),
    )
    for h in range(3):
        value = torch.zeros((), dtype=torch.float64)
        for turns, g in zip(dialogues, returns, strict=True):
            chances = [table[t.prompt_ids].softmax(-1)[t.completion_ids[0]] for t in turns]
            value = value + g[h] * torch.stack(chances).prod()
        of = table[(h + 1,)]
        np.testing.assert_allclose(gradient(climbed, of), (1 - 1 / n) * gradient(value, of), atol=1e-6)


CRITICS: Table = {
    (1,): logits(0.3, -0.2),  # y₀
    (2,): logits(0.5, -0.4),  # y₁ after the critic
    (3,): logits(-0.1, 0.2),  # c̃₀
    (4,): logits(0.7, 0.1),  # ỹ₁ after c̃₀ = 0
    (5,): logits(-0.6, 0.4),  # ỹ₁ after c̃₀ = 1
}
GAMMA = 0.4
FIRST = (0.1, 0.6)
AFTER_CRITIC = ((0.2, 0.9), (0.5, 0.8))  # by y₀, y₁
AFTER_OWN = (((0.0, 0.3), (0.4, 1.0)), ((0.1, 0.8), (0.6, 0.9)))  # by y₀, c̃₀, ỹ₁


def two_branches() -> Iterable[tuple[float, tuple[Turn, Turn], Turn, Turn]]:
    for a, b, c, d in itertools.product(range(2), repeat=4):
        y0, y1 = answer(CRITICS, (1,), (a,), FIRST[a]), answer(CRITICS, (2,), (b,), AFTER_CRITIC[a][b])
        said = answer(CRITICS, (3,), (c,), 0.0)
        own = answer(CRITICS, (4 + c,), (d,), AFTER_OWN[a][c][d])
        yield chance((y0, y1, said, own)), (y0, y1), said, own


def with_branch(pick: tuple[float, tuple[Turn, Turn], Turn, Turn], name: str) -> list[Rollout]:
    _, turns, said, own = pick
    critique = SampledCritique(
        text=said.text, source="self", saw_reference=False, provenance=CRITIC, sampled=said
    )
    main = rollout(turns, name)
    given = turns[0].model_copy(update={"logprobs": None})
    branch = main.model_copy(update={"id": branch_id(name), "turns": (given, own), "feedback": (critique,)})
    return [main, branch]


@pytest.mark.parametrize("baseline", ["separate", "pooled"])
def test_both_branches_climb_their_own_rewards(baseline: str) -> None:
    """c̃₀ and ỹ₁ climb E[r̃₁], y₁ climbs E[r₁], y₀ climbs E[R]: 1 − 1/N of each, or 1 − 1/2N where pooled."""
    n = 2
    method = SelfCritiqueRL(gamma=GAMMA, own_baseline=baseline, train_own_revision=True, lambda_fm=0)
    ctx, picks = context(TableEngine(CRITICS)), [*two_branches()]
    climbed = torch.zeros((), dtype=torch.float64)
    for group in itertools.product(picks, repeat=n):
        rollouts = [r for i, pick in enumerate(group) for r in with_branch(pick, str(i))]
        p = float(np.prod([pick[0] for pick in group]))
        climbed = climbed + p * objective(method.rows(ctx, rollouts), CRITICS)
    values = {"R": 0.0, "r1": 0.0, "own": 0.0}
    for _, turns, said, own in picks:
        chances = [CRITICS[t.prompt_ids].softmax(-1)[t.completion_ids[0]] for t in (*turns, said, own)]
        p_tensor = torch.stack(chances).prod()
        r0, r1, own_reward = turns[0].reward, turns[1].reward, own.reward
        values["R"] = values["R"] + p_tensor * (r0 + GAMMA / 2 * (r1 + own_reward))
        values["r1"], values["own"] = values["r1"] + p_tensor * r1, values["own"] + p_tensor * own_reward
    second = 1 - 1 / n if baseline == "separate" else 1 - 1 / (2 * n)
    expected = {
        (1,): ("R", 1 - 1 / n), (2,): ("r1", second), (3,): ("own", second), (4,): ("own", second),
        (5,): ("own", second),
    }  # fmt: skip
    for prompt, (name, share) in expected.items():
        of = CRITICS[prompt]
        assert np.abs(gradient(values[name], of)).max() > 1e-3
        np.testing.assert_allclose(gradient(climbed, of), share * gradient(values[name], of), atol=1e-6)


def test_as_the_paper_prints_it_the_revision_after_an_own_critique_has_no_gradient() -> None:
    method = SelfCritiqueRL(gamma=GAMMA, lambda_fm=0)
    picks = [*two_branches()]
    rollouts = [r for i, k in enumerate((0, 5)) for r in with_branch(picks[k], str(i))]
    terms = {t.name: t for t in method.rows(context(TableEngine(CRITICS)), rollouts)}
    assert {int(row.input_ids[0]) for row in terms["own"].rows} == {3}
    assert {int(row.input_ids[0]) for row in terms["rl"].rows} <= {1, 2}
