"""RLTF's switches: each does the named thing and nothing else."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from didact.engines.base import Loss, SamplingParams
from didact.errors import UsageError
from didact.methods import GRPO, METHODS, RLTF, SelfCritiqueRL, make_method
from didact.methods.grpo import rewards_by_turn
from didact.methods.rltf import BASELINES, WEIGHTINGS
from didact.methods.self_critique import branch_advantages, paired
from didact.prompts import CRITIQUE_REQUEST
from didact.rollouts.multi_turn import multi_turn
from didact.rollouts.self_critique_rollout import SampledCritique, branch_id, sampled_critique
from didact.run_dir import RunDir
from didact.types import Feedback, Rollout, Row
from tests.helpers import (
    CRITIC,
    CountingCritic,
    EchoTask,
    ScriptedEngine,
    advantages,
    context,
    dialogue,
    turn,
)

PROBLEMS = [EchoTask().train_problem(i) for i in range(2)]
BATCH = [
    dialogue(1.0),
    dialogue(0.0, 1.0),
    dialogue(0.0, 0.0),
    dialogue(0.5, 1.0),
    dialogue(0.0, 1.0, group="b"),
]
"""Nobody else is in the last one's group, so nothing is left of it where a baseline is a mean."""


class Scorer(ScriptedEngine):
    """Gives every target the same log-prob."""

    def __init__(self, logprob: float = -1.5) -> None:
        super().__init__(lambda text, j: "a")
        self.logprob = logprob

    def logprobs(self, rows, *, weights=None):  # type: ignore[no-untyped-def]
        return [np.full(len(row), self.logprob, np.float32) for row in rows]


def same_rows(a: list[Row], b: list[Row]) -> bool:
    return len(a) == len(b) and all(
        x.input_ids.tolist() == y.input_ids.tolist()
        and x.target_ids.tolist() == y.target_ids.tolist()
        and {k: v.tolist() for k, v in x.fields.items()} == {k: v.tolist() for k, v in y.fields.items()}
        for x, y in zip(a, b, strict=True)
    )


def same_terms(a, b) -> bool:  # type: ignore[no-untyped-def]
    return [(t.name, t.loss) for t in a] == [(t.name, t.loss) for t in b] and all(
        same_rows(x.rows, y.rows) for x, y in zip(a, b, strict=True)
    )


def longer(*rewards: float | None, group: str = "g", failed: int | None = None) -> Rollout:
    """A dialogue of as many turns as rewards, each but the last criticised; `failed` is the turn whose
    critic failed."""
    turns = tuple(turn((h + 1,), 5 + h, -1.0 - h, r) for h, r in enumerate(rewards))
    said = tuple(
        Feedback(
            turn=h, text="" if h == failed else f"mend {h}", source="program", saw_reference=True,
            provenance=CRITIC, status="failed" if h == failed else "ok",
            error="down" if h == failed else None,
        )
        for h in range(len(turns) - 1 + (failed is not None))
    )  # fmt: skip
    base = dialogue(0.0, group=group)
    return base.model_copy(update={"turns": turns, "feedback": said})


# ── self-distillation ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        # group g: r₀ = 1 0 0 ½, r₁ = – 1 0 1; group b: r₀ = 0, r₁ = 1. Rows of advantage 0 are left out.
        ("first_turn", [0.625, -0.375, 0.625]),
        ("second_turn", [1 / 3, -2 / 3, 1 / 3]),
        ("leave_one_out", [0.5, -1.0, 0.5]),
        ("delta", [1.0, 0.5, 1.0]),
        ("none", [1.0, 1.0, 1.0]),
    ],
)
def test_every_baseline_by_hand(baseline: str, expected: list[float]) -> None:
    term = RLTF(sd_baseline=baseline).sd_term(context(), BATCH)
    assert advantages(term) == pytest.approx(expected)
    assert all(row.fields["weights"].tolist() == [pytest.approx(0.1 / 5)] for row in term.rows)
    assert all(row.input_ids.tolist() == [1] for row in term.rows)


@pytest.mark.parametrize(
    ("weighting", "loss"),
    [
        ("awr", Loss("policy_gradient")),
        ("is", Loss("policy_gradient")),
        ("token_is", Loss("importance_sampling")),
        ("ppo", Loss("ppo", {"clip_low": 0.3, "clip_high": 0.3})),
        ("cispo", Loss("cispo", {"clip_low": 0.3, "clip_high": 0.3})),
    ],
)
def test_every_weighting_changes_the_loss_or_the_ratio_and_leaves_the_coefficient(
    weighting: str, loss: Loss
) -> None:
    term = RLTF(sd_weighting=weighting, sd_clip=0.3).sd_term(context(Scorer(-1.5)), BATCH)
    plain = RLTF().sd_term(context(), BATCH)
    assert term.loss == loss
    ratio = math.exp(-1.5 + 2.0) if weighting == "is" else 1.0  # y₁ was sampled at −2
    assert advantages(term) == pytest.approx([ratio * a for a in advantages(plain)])
    for ours, theirs in zip(term.rows, plain.rows, strict=True):
        assert ours.fields["weights"].tolist() == theirs.fields["weights"].tolist()
        assert ours.fields["old_logprobs"].tolist() == [-2.0]


def test_the_answers_ratio_is_of_all_its_tokens_and_the_mask_comes_after() -> None:
    class Two(ScriptedEngine):
        def logprobs(self, rows, *, weights=None):  # type: ignore[no-untyped-def]
            return [np.array([-9.0, -1.0, -6.0], np.float32) for _ in rows]

    revised = dialogue(0.0, 1.0)
    first = revised.turns[0].model_copy(update={"prompt_ids": (1, 2)})
    second = revised.turns[1].model_copy(update={"completion_ids": (7, 8), "logprobs": (-0.5, -4.0)})
    revised = revised.model_copy(update={"turns": (first, second)})
    ctx = context(Two(lambda text, j: "a"))
    method = RLTF(sd_weighting="is", sd_baseline="none", mask_below=-5.0)
    (row,) = method.sd_term(ctx, [revised]).rows
    ratio = math.exp((-1.0 + 0.5) + (-6.0 + 4.0))  # the prompt's own token is no part of it
    assert row.fields["advantages"].tolist() == [0.0, pytest.approx(ratio), pytest.approx(ratio)]
    assert row.fields["weights"].tolist() == [0.0, pytest.approx(0.1), 0.0]


@pytest.mark.parametrize("weighting", ["is", "token_is", "ppo", "cispo"])
@pytest.mark.parametrize("sampling", [{"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 5}, {"min_tokens": 2}])
def test_a_ratio_refuses_samples_of_another_distribution(weighting: str, sampling: dict[str, float]) -> None:
    params = SamplingParams(max_tokens=4, **sampling)
    ctx = context(ScriptedEngine(lambda text, j: "a"), CountingCritic(), sampling=params)
    with pytest.raises(UsageError, match=r"sampling\.temperature=1"):
        RLTF(sd_weighting=weighting).collect(ctx, PROBLEMS)
    assert RLTF(sd_weighting=weighting, lambda_sd=0).collect(ctx, PROBLEMS)
    assert RLTF().collect(ctx, PROBLEMS)


def test_revisions_that_mention_their_critique_teach_nothing_and_leave_the_second_mean() -> None:
    telltale = dialogue(0.0, 1.0)
    told = telltale.turns[1].model_copy(update={"text": "As the critique notes, I forgot one."})
    telltale = telltale.model_copy(update={"turns": (telltale.turns[0], told)})
    batch = [dialogue(0.0, 1.0), dialogue(0.0, 0.0), dialogue(0.0, 0.0), telltale]
    kept = RLTF(sd_baseline="second_turn")
    assert advantages(kept.sd_term(context(), batch)) == pytest.approx([0.5, -0.5, -0.5, 0.5])
    dropped = RLTF(sd_baseline="second_turn", sd_drop_mentions=True)
    term = dropped.sd_term(context(), batch)
    assert advantages(term) == pytest.approx([2 / 3, -1 / 3, -1 / 3])
    assert term.rows[0].fields["weights"].tolist() == [pytest.approx(0.1 / 4)]  # M stays
    (rl,) = (t for t in dropped.rows(context(), batch) if t.name == "rl")
    (rl_kept,) = (t for t in kept.rows(context(), batch) if t.name == "rl")
    assert same_rows(rl.rows, rl_kept.rows)


# ── feedback modelling ────────────────────────────────────────────────────────────────────────────


def test_feedback_modelling_of_every_turn_trains_each_critiques_tokens_and_no_others() -> None:
    ctx = context()
    said = longer(0.0, 0.0, 1.0, failed=None)
    last = Feedback(turn=2, text="the last word", source="program", saw_reference=True, provenance=CRITIC)
    said = said.model_copy(update={"feedback": (*said.feedback, last)})
    assert len(RLTF(turns=3).fm_term(ctx, [said]).rows) == 1
    rows = RLTF(turns=3, fm_turns="every", lambda_fm=0.5).fm_term(ctx, [said]).rows
    for row, text, answer in zip(rows, ("mend 0", "mend 1", "the last word"), "567", strict=True):
        critique = ctx.renderer.answer(text)
        trained = row.fields["weights"] != 0
        assert tuple(row.target_ids[trained].tolist()) == critique
        assert row.fields["weights"][trained].tolist() == [0.5] * len(critique)
        asked = ctx.renderer.text(row.input_ids[: -len(critique) + 1])
        assert asked.startswith(f"User: q\nAssistant: {answer}\n")
        assert CRITIQUE_REQUEST in asked


def test_every_turn_has_the_last_answer_criticised_too_and_its_failure_costs_nothing() -> None:
    engine, critic = ScriptedEngine(lambda text, j: "b"), CountingCritic(fails=[3])
    method = RLTF(samples=2, fm_turns="every", early_stop=False)
    rollouts = method.collect(context(engine, critic), PROBLEMS[:1])
    assert [[f.turn for f in r.feedback] for r in rollouts] == [[0, 1], [0, 1]]
    assert rollouts[1].feedback_failed(1)
    assert not np.isnan(rewards_by_turn(rollouts, 2)).any()
    assert len(method.fm_term(context(), rollouts).rows) == 3
    asked = CountingCritic()
    RLTF(samples=2, fm_turns="every", lambda_fm=0.0).collect(context(engine, asked), PROBLEMS[:1])
    assert asked.asked == 2  # nobody would learn from the last ones


def test_both_coefficients_can_rise_from_zero() -> None:
    method = RLTF(lambda_sd=0.4, lambda_sd_ramp=0.5, lambda_fm=0.8, lambda_fm_ramp=0.25)
    rollouts = [dialogue(0.0, 1.0)] * 2
    for progress, sd, fm in ((0.0, None, None), (0.125, 0.05, 0.2), (0.25, 0.1, 0.4), (1.0, 0.2, 0.4)):
        terms = {t.name: t for t in method.rows(context(progress=progress), rollouts)}
        found = {name: float(t.rows[0].fields["weights"][-1]) for name, t in terms.items()}
        assert found == pytest.approx({k: v for k, v in (("sd", sd), ("fm", fm)) if v is not None})


# ── identities over all switches ──────────────────────────────────────────────────────────────────

SWITCHES = [
    {"sd_baseline": b, "sd_weighting": w, "sd_drop_mentions": d, "fm_turns": f}
    for (b, w), (d, f) in itertools.product(
        itertools.product(BASELINES, WEIGHTINGS), [(False, "first"), (True, "every")]
    )
]
LONG = [longer(0.0, 0.0, 1.0), longer(0.0, 1.0), longer(1.0), longer(0.0, 0.5, 0.0)]


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda s: "-".join(map(str, s.values())))
def test_without_its_coefficients_every_variant_is_grpo_in_as_many_turns(switches: dict[str, object]) -> None:
    for turns, batch in ((2, BATCH), (3, LONG)):
        ours = RLTF(turns=turns, lambda_sd=0.0, lambda_fm=0.0, **switches).rows(context(Scorer()), batch)
        assert ours
        assert same_terms(ours, GRPO(turns=turns).rows(context(), batch))


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda s: "-".join(map(str, s.values())))
def test_a_failed_critic_leaves_every_mean_and_every_row(switches: dict[str, object]) -> None:
    ctx = context(Scorer())
    for turns, batch, failures in (
        (2, BATCH, [dialogue(0.0, failed=True)]),
        (3, LONG, [longer(0.0, failed=0), longer(0.0, 1.0, failed=1)]),
    ):
        method = RLTF(turns=turns, **switches)
        without = method.rows(ctx, batch)
        assert {t.name for t in without} == {"rl", "sd", "fm"}
        with_failures = method.rows(ctx, [*failures, *batch])
        if turns == 3:  # the first critique of the second dialogue was had, so it is learned
            with_failures, without = (
                [t for t in terms if t.name != "fm"] for terms in (with_failures, without)
            )
        assert same_terms(with_failures, without)


@pytest.mark.parametrize("name", [n for n in METHODS if n.startswith(("grpo-", "rltf"))])
def test_every_method_asks_for_a_critic_and_takes_the_switches_by_name(name: str) -> None:
    assert make_method(name).needs_feedback
    if name.startswith("rltf"):
        method = make_method(name, {"sd_baseline": "delta", "sd_weighting": "cispo"})
        assert (method.sd_baseline, method.sd_weighting) == ("delta", "cispo")  # type: ignore[attr-defined]
        with pytest.raises(UsageError, match="sd_baseline = 'third_turn'"):
            make_method(name, {"sd_baseline": "third_turn"})


# ── more than two turns ───────────────────────────────────────────────────────────────────────────


def test_rewards_by_turn_of_dialogues_of_every_kind() -> None:
    nan = math.nan
    rollouts = [*LONG[:3], longer(0.0, 0.5, failed=1), longer(0.0, None, 1.0), longer(0.0, failed=0)]
    np.testing.assert_array_equal(
        rewards_by_turn(rollouts, 3),
        [[0, 0, 1], [0, 1, nan], [1, nan, nan], [nan, nan, nan], [0, nan, 1], [nan, nan, nan]],
    )


def test_each_turn_is_credited_with_what_came_of_it() -> None:
    found = GRPO(turns=3, gamma=0.5).advantages(LONG[:3])
    # G₀ = ¼, ½, 1; G₁ = ½, 1; G₂ = 1
    np.testing.assert_allclose(
        found, [[0.25 - 7 / 12, -0.25, 0], [0.5 - 7 / 12, 0.25, math.nan], [1 - 7 / 12, math.nan, math.nan]]
    )


def test_every_later_answer_is_distilled_against_the_same_first_ones() -> None:
    term = RLTF(turns=3).sd_term(context(), LONG)
    # mean r₀ = ¼. y₁: 0, 1, –, ½; y₂: 1, –, –, 0
    assert advantages(term) == pytest.approx([-0.25, 0.75, 0.75, 0.25, -0.25])
    assert [int(row.target_ids[0]) for row in term.rows] == [6, 7, 6, 6, 7]


def test_a_revision_sees_the_question_the_latest_attempt_and_its_critique() -> None:
    tries = iter("xyza")
    engine = ScriptedEngine(lambda text, j: next(tries))
    (found,) = multi_turn(context(engine, CountingCritic()), PROBLEMS[:1], 1, turns=5)
    assert [t.text for t in found.turns] == [*"xyza"]  # right at the fourth, so no fifth
    assert [(f.turn, f.text) for f in found.feedback] == [(0, "wrong 0"), (1, "wrong 1"), (2, "wrong 2")]
    for h, prompt in enumerate(engine.prompts[1:]):
        assert prompt.count("Question:\nq0\n") == 1
        assert [f"wrong {k}" in prompt for k in range(3)] == [k == h for k in range(3)]
        assert f"\n{'xyz'[h]}\n" in prompt


def test_a_critic_that_fails_at_a_later_turn_ends_the_dialogue_there() -> None:
    engine = ScriptedEngine(lambda text, j: "b")
    rollouts = multi_turn(context(engine, CountingCritic(fails=[2])), PROBLEMS, 1, turns=4)
    assert [len(r.turns) for r in rollouts] == [2, 4]
    assert rollouts[0].feedback_failed(1)


# ── self-critique ─────────────────────────────────────────────────────────────────────────────────


def own_answers(text: str, j: int) -> str:
    if CRITIQUE_REQUEST in text:
        return "  see here "
    return "a" if "see here" in text else "c" if "wrong" in text else "b"


def test_the_policys_own_branch_starts_from_the_same_answer() -> None:
    engine = ScriptedEngine(own_answers)
    method = SelfCritiqueRL(samples=2, critique_tokens=9)
    ctx = context(engine, CountingCritic())
    rollouts = method.collect(ctx, PROBLEMS)
    critics, own = paired(rollouts)
    assert [r.id for r in rollouts[:2]] == [critics[0].id, branch_id(critics[0].id)]
    assert len(critics) == 4
    for rollout, branch in zip(critics, own, strict=True):
        assert branch is not None
        assert branch.group == rollout.group
        assert [t.text for t in rollout.turns] == ["b", "c"]
        assert [t.text for t in branch.turns] == ["b", "a"]
        assert branch.turns[0].logprobs is None  # so that it is neither trained nor paid for twice
        assert branch.sampled_tokens == 2
        said = sampled_critique(branch)
        assert isinstance(said, SampledCritique)
        assert (said.text, said.source, said.saw_reference) == ("see here", "self", False)
        assert said.sampled.completion_ids == (*map(ord, "  see here "), 0)  # as sampled, not re-encoded
        assert said.sampled.prompt_ids == ctx.renderer.prompt([*rollout.problem.messages, *_asked("b")])
        assert "wrong" not in ctx.renderer.text(branch.turns[1].prompt_ids)
        assert branch.feedback_tokens == len(said.sampled.completion_ids)


def _asked(attempt: str):  # type: ignore[no-untyped-def]
    from didact.types import Message

    return [Message(role="assistant", content=attempt), Message(role="user", content=CRITIQUE_REQUEST)]


def branched(r0: float, r1: float, own: float | None, name: str, *, failed: bool = False) -> list[Rollout]:
    main = dialogue(r0, None if failed else r1, failed=failed).model_copy(update={"id": name})
    if own is None:
        return [main]
    said = SampledCritique(
        text="hm", source="self", saw_reference=False, provenance=CRITIC, sampled=turn((3,), 9, -1.0, None)
    )
    given = main.turns[0].model_copy(update={"logprobs": None})
    turns = (given, turn((4,), 8, -1.0, own))
    return [main, main.model_copy(update={"id": branch_id(name), "turns": turns, "feedback": (said,)})]


PAIRED = [*branched(0.0, 1.0, 0.0, "0"), *branched(1.0, 1.0, 1.0, "1"), *branched(0.0, 0.0, None, "2")]


@pytest.mark.parametrize(
    ("baseline", "second", "own"),
    [("separate", [1 / 3, 1 / 3, -2 / 3], [-0.5, 0.5]), ("pooled", [0.4, 0.4, -0.6], [-0.6, 0.4])],
)
def test_credit_of_two_branches_by_hand(baseline: str, second: list[float], own: list[float]) -> None:
    method = SelfCritiqueRL(gamma=0.4, own_baseline=baseline)
    credit = branch_advantages(paired(PAIRED), method.gamma, method.own_baseline)
    # R = 0 + ½γ·1, 1 + ½γ·2, and γ·0 where only the critic's branch is there
    np.testing.assert_allclose(credit.first, np.array([0.2, 1.4, 0.0]) - 1.6 / 3)
    np.testing.assert_allclose(credit.second, second)
    np.testing.assert_allclose(credit.own, [*own, math.nan])


def test_a_revision_that_nobody_could_verify_makes_the_whole_return_unknown() -> None:
    unverified = branched(0.0, 1.0, 0.0, "3")
    lost = unverified[1].turns[1].model_copy(update={"reward": None, "correct": False})
    unverified[1] = unverified[1].model_copy(update={"turns": (unverified[1].turns[0], lost)})
    method = SelfCritiqueRL(gamma=0.4)
    credit, without = (
        branch_advantages(paired(r), method.gamma, method.own_baseline)
        for r in ([*PAIRED, *unverified], PAIRED)
    )
    np.testing.assert_allclose(credit.first, [*without.first, math.nan])
    assert math.isnan(credit.own[-1])
    long = GRPO(turns=3, gamma=0.5).advantages([*LONG, longer(0.0, None, 1.0)])
    assert np.isnan(long[-1]).tolist() == [True, True, False]


@pytest.mark.parametrize("trained", [False, True])
def test_rows_of_two_branches(trained: bool) -> None:
    method = SelfCritiqueRL(gamma=0.4, train_own_revision=trained, lambda_fm=0.3)
    terms = {t.name: t for t in method.rows(context(), PAIRED)}
    assert set(terms) == {"rl", "own", "fm"}  # no SD unless asked for
    prompts = [int(row.input_ids[0]) for row in terms["own"].rows]
    assert prompts == ([3, 4, 3, 4] if trained else [3, 3])
    assert [float(row.fields["weights"][-1]) for row in terms["own"].rows] == pytest.approx(
        [1 / 3] * len(prompts)
    )
    assert [int(row.input_ids[0]) for row in terms["rl"].rows].count(1) == 3  # y₀ once a dialogue
    assert len(terms["fm"].rows) == 3  # of the critic's words only
    assert all(float(row.fields["weights"][-1]) == pytest.approx(0.1) for row in terms["fm"].rows)
    assert "sd" in {t.name for t in SelfCritiqueRL(lambda_sd=0.1).rows(context(), PAIRED)}


@pytest.mark.parametrize("trained", [False, True])
def test_a_mean_over_tokens_is_over_those_of_both_branches(trained: bool) -> None:
    method = SelfCritiqueRL(gamma=0.4, train_own_revision=trained, lambda_fm=0, normalise="tokens")
    critics, own = paired(PAIRED)
    tokens = sum(len(t.completion_ids) for r in critics for t in r.turns)
    for branch in filter(None, own):
        said = sampled_critique(branch)
        assert said is not None
        tokens += len(said.sampled.completion_ids)
        tokens += trained * sum(len(t.completion_ids) for t in branch.turns[1:])
    for term in method.rows(context(), PAIRED):
        for row in term.rows:
            assert float(row.fields["weights"].max()) == pytest.approx(1 / tokens)


def test_without_weight_on_what_follows_both_branches_leave_two_turn_grpo() -> None:
    ours = SelfCritiqueRL(gamma=0.0, lambda_fm=0.0).rows(context(), PAIRED)
    theirs = GRPO(turns=2, gamma=0.0).rows(context(), paired(PAIRED).source)
    assert same_terms(ours[:1], theirs)


@pytest.mark.parametrize("baseline", ["separate", "pooled"])
def test_a_failed_critic_leaves_both_branches(baseline: str) -> None:
    method = SelfCritiqueRL(own_baseline=baseline, train_own_revision=True, lambda_sd=0.1)
    failed = branched(0.0, 0.0, 1.0, "3", failed=True)
    assert len(failed) == 2
    assert same_terms(method.rows(context(), [*failed, *PAIRED]), method.rows(context(), PAIRED))
    engine = ScriptedEngine(own_answers)
    rollouts = method.collect(context(engine, CountingCritic(fails=[0])), PROBLEMS)
    assert sum(sampled_critique(r) is not None for r in rollouts) == sum(
        own is not None for own in paired(rollouts).own
    )
    assert paired(rollouts).own[0] is None


def test_a_critique_that_does_not_fit_leaves_one_branch() -> None:
    engine = ScriptedEngine(own_answers)
    engine.max_length = 60
    rollouts = SelfCritiqueRL(samples=2).collect(context(engine, CountingCritic(fails=range(9))), PROBLEMS)
    assert paired(rollouts).own == [None] * 4


def test_a_run_directory_takes_both_branches_and_gives_them_back(tmp_path: Path) -> None:
    engine = ScriptedEngine(own_answers)
    rollouts = SelfCritiqueRL(samples=2).collect(context(engine, CountingCritic()), PROBLEMS[:1])
    run = RunDir.create(tmp_path / "run", "method: rltf-self\n", "test")
    run.add_rollouts(rollouts, 1)
    back = [*run.read_rollouts()]
    assert [r.id for r in back] == [r.id for r in rollouts]
    assert [r.turns for r in back] == [r.turns for r in rollouts]
    assert [r.feedback[0].text for r in back] == ["wrong 0", "see here", "wrong 1", "see here"]
