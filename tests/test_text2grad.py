"""Text2Grad's rows against its equations, on a policy whose gradients are exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from didact.engines.base import Capabilities, Loss
from didact.errors import CapabilityError, UsageError
from didact.methods import GRPO, PPO, Text2Grad, make_method
from didact.methods.base import LossTerm
from didact.types import Row
from tests.bigram import SIZE, Bigram, failed
from tests.helpers import context

CREDITS = ("direct", "gae", "critic_free")


def rows(method, engine, rollouts, **changes):
    return method.rows(context(engine, **changes), rollouts)


def field(terms, name):
    """A field of each row's answer, in order."""
    (term,) = terms
    return [row.fields[name][row.fields["weights"] != 0].tolist() for row in term.rows]


def batch(engine):
    """Two groups of answers with good and poor phrases, and one without."""
    return [
        engine.answer("the sun is up", good=["sun"], poor=["up"], group="a", name="0"),
        engine.answer("it rains", poor=["rains"], group="a", name="1"),
        engine.answer("no", group="b", name="0"),
        engine.answer("say yes", good=["say yes"], group="b", name="1", ended=False),
    ]


# ── direct: the paper's NL-gradient ───────────────────────────────────────────────────────────────


def test_direct_is_the_sum_of_delta_times_the_score_by_autograd():
    engine = Bigram()
    found = engine.gradient(rows(Text2Grad(credit="direct", kl_coef=0), engine, batch(engine)))
    expected = (
        engine.score("the sun is up", [0] * 4 + [1] * 3 + [0] * 4 + [-1] * 2 + [0], True)
        + engine.score("it rains", [0] * 3 + [-1] * 5 + [0], True)
        + engine.score("say yes", [1] * 7, False)
    ) / 4
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found).max() > 0.1


@given(st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=6), st.integers(0, 20))
def test_direct_follows_any_labels(labels, seed):
    text = "abcdef"[: len(labels)]
    engine = Bigram(seed)
    quotes = {sign: [c for c, label in zip(text, labels, strict=True) if label == sign] for sign in (1, -1)}
    rollout = engine.answer(text, good=quotes[1], poor=quotes[-1])
    found = engine.gradient(rows(Text2Grad(credit="direct", kl_coef=0), engine, [rollout]))
    np.testing.assert_allclose(found, engine.score(text, [*labels, 0], True), atol=1e-6)


def test_an_answer_that_was_given_has_the_same_nl_gradient():
    engine = Bigram(moved=0.2)
    rollout = engine.answer("it rains", good=["it"], poor=["rains"])
    turn = rollout.turns[0].model_copy(update={"logprobs": None})
    given = rollout.model_copy(update={"turns": (turn,)})
    method = Text2Grad(credit="direct")
    found = engine.gradient(rows(method, engine, [given]))
    np.testing.assert_array_equal(found, engine.gradient(rows(method, engine, [rollout])))
    assert found.any()


@pytest.mark.parametrize("credit", CREDITS)
def test_a_step_raises_a_good_phrase_and_lowers_a_poor_one(credit):
    """A sign flipped anywhere between the span and the loss turns this round."""
    engine = Bigram(moved=0.0)
    engine.value = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
    # Every character once, so that each token has logits of its own.
    rollouts = [
        engine.answer("abc-xyz", good=["abc"], name="0"),
        engine.answer("def+uvw", poor=["uvw"], name="1"),
    ]
    found = engine.gradient(rows(Text2Grad(credit=credit, kl_coef=0), engine, rollouts))
    with torch.no_grad():
        moved = engine.theta + 0.1 * torch.from_numpy(found)

    def gain(first, second):
        old, new = (t.detach().log_softmax(-1)[ord(first), ord(second)] for t in (engine.theta, moved))
        return float(new - old)

    assert gain("a", "b") > 1e-4
    assert gain("b", "c") > 1e-4
    assert gain("u", "v") < -1e-4
    assert gain("v", "w") < -1e-4
    if credit == "direct":
        unlabelled = {ord(c) for c in "xyde"}
        assert not np.abs(found[list(unlabelled)]).any()


@pytest.mark.parametrize("credit", CREDITS)
def test_nothing_moves_where_nothing_is_labelled(credit):
    engine = Bigram()
    engine.value = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
    rollouts = [engine.answer("abc", name="0"), engine.answer("xyz", name="1")]
    terms = rows(Text2Grad(credit=credit), engine, rollouts)
    assert not engine.gradient(terms).any()
    assert terms == [] or credit == "gae"  # a value may be wrong where the policy is not


# ── gae ───────────────────────────────────────────────────────────────────────────────────────────


def own_gae(rewards, values, gamma, lam):
    """By the definition: Σ_l (γλ)^l (r + γ V' − V), with V' = 0 behind the end."""
    after = np.append(values[1:], 0.0)
    errors = rewards + gamma * after - values
    T = len(rewards)
    decay = np.tril((gamma * lam) ** (np.arange(T)[:, None] - np.arange(T)[None, :]).clip(0))
    return decay.T @ errors


@pytest.mark.parametrize("kl", ["k1", "full"])
def test_gae_is_that_of_rewards_less_the_kl(kl):
    engine = Bigram(moved=0.3)
    method = Text2Grad(credit={"kind": "gae", "gamma": 0.9, "lam": 0.8}, kl_coef=0.2, kl=kl)
    rollouts = batch(engine)
    terms = rows(method, engine, rollouts)
    deltas = [
        [0] * 4 + [1] * 3 + [0] * 4 + [-1] * 2 + [0], [0] * 3 + [-1] * 5 + [0], [0] * 3, [1] * 7,
    ]  # fmt: skip
    for i, (rollout, delta) in enumerate(zip(rollouts, deltas, strict=True)):
        row = Row.from_completion((1,), rollout.turns[0].completion_ids)
        k1 = engine.row_logprobs(row) - engine.row_logprobs(row, engine.start)
        k = (k1 if kl == "k1" else engine.kl(row)).detach().numpy()
        values = engine.value.detach().numpy()[row.input_ids]
        expected = own_gae(np.array(delta) - 0.2 * k, values, 0.9, 0.8)
        np.testing.assert_allclose(field(terms, "advantages")[i], expected, atol=1e-5)
        np.testing.assert_allclose(field(terms, "returns")[i], expected + values, atol=1e-5)
        np.testing.assert_allclose(field(terms, "old_values")[i], values, atol=1e-6)
        np.testing.assert_allclose(field(terms, "old_logprobs")[i], rollout.turns[0].logprobs, atol=1e-6)
        assert field(terms, "weights")[i] == pytest.approx([0.25] * len(delta))
    assert terms[0].loss == Loss(
        "actor_critic", {"clip_low": 0.2, "clip_high": 0.2, "value_clip": 0.2, "value_coef": 0.1}
    )


def test_a_worked_gae():
    """Three tokens by hand: δ = 0, −1, 0, V = .5, .25, 0, γ = 1, λ = .5; the end is unlabelled."""
    engine = Bigram()
    with torch.no_grad():
        engine.value[[1, ord("a"), ord("b")]] = torch.tensor([0.5, 0.25, 0.0], dtype=torch.float64)
    method = Text2Grad(credit={"kind": "gae", "lam": 0.5}, kl_coef=0)
    terms = rows(method, engine, [engine.answer("ab", poor=["b"])])
    # d = −.25, −1.25, 0
    assert field(terms, "advantages")[0] == pytest.approx([-0.25 - 0.625, -1.25, 0.0])
    assert field(terms, "returns")[0] == pytest.approx([-0.375, -1.0, 0.0])


def test_whitening_makes_advantages_relative():
    engine = Bigram()
    method = Text2Grad(credit={"kind": "gae", "whiten": True}, kl_coef=0)
    terms = rows(method, engine, batch(engine))
    flat = np.concatenate(field(terms, "advantages"))
    assert (flat.mean(), flat.std()) == (pytest.approx(0, abs=1e-6), pytest.approx(1, rel=1e-5))
    plain = rows(Text2Grad(kl_coef=0), engine, batch(engine))
    assert field(terms, "returns") == field(plain, "returns")


def test_what_the_value_head_explains_is_noted():
    engine, notes = Bigram(), {}
    terms = rows(Text2Grad(), engine, batch(engine), metrics=notes)
    R, V = (np.concatenate(field(terms, name)) for name in ("returns", "old_values"))
    assert notes["explained_variance"] == pytest.approx(1 - np.var(R - V) / np.var(R), rel=1e-4)
    assert {"kl", "kl_coef", "tokens_good", "tokens_poor"} <= notes.keys()
    assert notes["tokens_good"] == pytest.approx(10 / 33)
    assert notes["answers_unlabelled"] == 1


# ── limits and identities ─────────────────────────────────────────────────────────────────────────

SILENT = {"kind": "gae", "gamma": 0.0}
EQUAL = {
    "gae without values or γ": (SILENT, "direct"),
    "critic_free without baseline or γ": (
        {"kind": "critic_free", "gamma": 0.0, "baseline": False}, "direct",
    ),
    "gae without values at λ = 1": (
        {"kind": "gae", "lam": 1.0, "gamma": 0.9}, {"kind": "critic_free", "gamma": 0.9, "baseline": False},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EQUAL)
def test_the_limits_meet(name):
    engine = Bigram(moved=0.2)
    engine.value = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
    first, second = (rows(Text2Grad(credit=c), engine, batch(engine)) for c in EQUAL[name])
    for a, b in zip(field(first, "advantages"), field(second, "advantages"), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_allclose(engine.gradient(first), engine.gradient(second), atol=1e-6)


def test_one_span_over_the_whole_answer_is_the_scalar_methods_update():
    """REINFORCE with reward −1 on all of the answer, which was cut off and so has no end id."""
    engine = Bigram()
    rollout = engine.answer("all of it", poor=["all of it"], ended=False)
    found = rows(Text2Grad(credit="direct", kl_coef=0), engine, [rollout])
    turn = rollout.turns[0]
    whole = Row.from_completion(turn.prompt_ids, turn.completion_ids, weights=1.0, advantages=-1.0)
    scalar = [LossTerm("rl", Loss("policy_gradient"), [whole])]
    np.testing.assert_allclose(engine.gradient(found), engine.gradient(scalar), atol=1e-9)
    assert engine.gradient(found).any()


@pytest.mark.parametrize("credit", ["gae", "critic_free"])
def test_a_span_that_is_the_whole_answer_of_one_token_is_the_scalar_methods_update(credit):
    engine = Bigram()
    rollouts = [
        engine.answer("x", good=["x"], name="0", ended=False),
        engine.answer("y", poor=["y"], name="1", ended=False),
    ]
    spans, scalar = (
        rows(method, engine, rollouts)
        for method in (Text2Grad(credit=credit), PPO(credit=credit, reward="spans"))
    )
    assert field(spans, "advantages") == field(scalar, "advantages")
    np.testing.assert_array_equal(engine.gradient(spans), engine.gradient(scalar))
    assert engine.gradient(spans).any()


@pytest.mark.parametrize("credit", ["gae", "critic_free"])
def test_a_span_at_the_end_is_the_scalar_methods_update(credit):
    engine = Bigram(moved=0.1)
    rollouts = [
        engine.answer("abcx", good=["x"], name="0", ended=False),
        engine.answer("aby", poor=["y"], name="1", ended=False),
    ]
    spans, scalar = (
        rows(method, engine, rollouts)
        for method in (Text2Grad(credit=credit), PPO(credit=credit, reward="spans"))
    )
    np.testing.assert_array_equal(engine.gradient(spans), engine.gradient(scalar))


def test_ppo_without_a_critic_or_a_kl_is_grpo():
    engine = Bigram()
    rollouts = [
        engine.answer(text, group=group, name=str(i), reward=r)
        for i, (text, group, r) in enumerate(
            [("abc", "a", 1.0), ("x", "a", 0.0), ("pq", "a", 0.0), ("z", "b", 1.0)]
        )
    ]
    found = rows(PPO(credit="critic_free", kl_coef=0), engine, rollouts)
    expected = rows(GRPO(), engine, rollouts)
    assert len(found[0].rows) == len(expected[0].rows) == 3
    assert found[0].loss == expected[0].loss
    for a, b in zip(field(found, "advantages"), field(expected, "advantages"), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)
    np.testing.assert_allclose(engine.gradient(found), engine.gradient(expected), atol=1e-7)


@pytest.mark.parametrize("credit", CREDITS)
def test_the_order_of_answers_does_not_matter(credit):
    engine = Bigram(moved=0.2)
    rollouts = batch(engine)
    method = Text2Grad(credit=credit)
    found, moved = rows(method, engine, rollouts), rows(method, engine, [rollouts[i] for i in (2, 0, 3, 1)])
    np.testing.assert_allclose(engine.gradient(moved), engine.gradient(found), atol=1e-9)
    by_answer = {row.input_ids.tobytes(): row.fields["advantages"].tolist() for row in found[0].rows}
    for row in moved[0].rows:
        assert row.fields["advantages"].tolist() == pytest.approx(by_answer[row.input_ids.tobytes()])


@pytest.mark.parametrize("credit", CREDITS)
def test_each_answer_is_credited_by_its_own_spans(credit):
    """What the published code takes from the first sample of a batch must be each sample's own."""
    engine = Bigram()
    method = Text2Grad(
        credit=credit if credit != "critic_free" else {"kind": credit, "baseline": False}, kl_coef=0
    )
    together = rows(method, engine, batch(engine))
    alone = [rows(method, engine, [rollout]) for rollout in batch(engine)]
    expected = [a for terms in alone if terms for a in field(terms, "advantages")]
    assert field(together, "advantages") == expected


# ── the KL ────────────────────────────────────────────────────────────────────────────────────────


def one_token(engine, kl, credit, beta=1.0):
    """The expected gradient of the KL part at one token, over the whole vocabulary."""
    method = Text2Grad(credit=credit, kl_coef=beta, kl=kl)
    chances = engine.theta.detach()[1].softmax(-1).numpy()
    total = np.zeros((SIZE, SIZE))
    for token in range(1, SIZE):
        rollout = engine.answer(chr(token), ended=False)
        total += chances[token] * engine.gradient(rows(method, engine, [rollout]))
    # Character 0 ends an answer for the tokenizer, so its row is made here of what is left.
    rollout = engine.answer("", ended=True)
    return total + chances[0] * engine.gradient(rows(method, engine, [rollout]))


def divergence(engine, forward):
    own, other = engine.theta[1].log_softmax(-1), engine.start[1].log_softmax(-1)
    p, q = (other, own) if forward else (own, other)
    return -torch.autograd.grad((p.exp() * (p - q)).sum(), engine.theta)[0].numpy()


def test_the_expected_gradient_of_each_kl_is_that_of_the_table():
    engine = Bigram(moved=0.3)
    ahead = {"kind": "critic_free", "gamma": 0.0, "baseline": False}
    reverse, forward = divergence(engine, False), divergence(engine, True)
    assert np.abs(reverse).max() > 1e-3
    np.testing.assert_allclose(one_token(engine, "k1", "direct"), reverse, atol=1e-6)
    np.testing.assert_allclose(one_token(engine, "k3_loss", "direct"), forward, atol=1e-6)
    np.testing.assert_allclose(one_token(engine, "k3", ahead), reverse - forward, atol=1e-6)
    np.testing.assert_allclose(one_token(engine, "full", ahead), np.zeros((SIZE, SIZE)), atol=1e-6)


@pytest.mark.parametrize("credit", CREDITS)
def test_a_critique_that_could_not_be_parsed_leaves_the_kl_in_place(credit):
    """Neutral, never dropped: its row is there, with β k as the only reward, and it counts in M."""
    engine = Bigram(moved=0.3)
    engine.value = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
    settings = {"kind": credit, "baseline": False} if credit == "critic_free" else credit
    rollouts = [engine.answer("ab", good=["a"], name="0"), engine.answer("cd", name="1", label="unparsed")]
    terms = rows(Text2Grad(credit=settings, kl_coef=0.5), engine, rollouts)
    assert len(terms[0].rows) == 2
    turn = rollouts[1].turns[0]
    row = Row.from_completion((1,), turn.completion_ids)
    k1 = (engine.row_logprobs(row) - engine.row_logprobs(row, engine.start)).detach().numpy()
    decay = {"direct": 0.0, "gae": 0.95, "critic_free": 1.0}[credit]
    expected = own_gae(-0.5 * k1, np.zeros(3), 1.0, decay)
    np.testing.assert_allclose(field(terms, "advantages")[1], expected, atol=1e-6)
    assert np.abs(expected).max() > 1e-3
    assert field(terms, "weights")[0] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("credit", CREDITS)
def test_an_answer_whose_critic_failed_is_in_no_mean_and_no_row(credit):
    engine = Bigram(moved=0.3)
    good = [engine.answer("ab", good=["a"], name="0"), engine.answer("xy", poor=["y"], name="1")]
    lost = engine.answer("cd", name="2", **failed())
    method = Text2Grad(credit=credit)
    without, beside = rows(method, engine, good), rows(method, engine, [*good, lost])
    np.testing.assert_array_equal(engine.gradient(without), engine.gradient(beside))
    assert rows(method, engine, [lost]) == []
    neutral = rows(Text2Grad(credit=credit, spans={"failed": "neutral"}), engine, [*good, lost])
    assert len(neutral[0].rows) == 3
    assert field(neutral, "weights")[0] == pytest.approx([1 / 3] * 3)


def test_the_k3_loss_stands_in_the_loss_alone():
    engine = Bigram(moved=0.3)
    terms = rows(Text2Grad(credit="direct", kl="k3_loss", kl_coef=0.1), engine, batch(engine))
    assert terms[0].loss == Loss("policy_gradient", {"kl_coef": 0.1})
    assert field(terms, "advantages")[2] == [0.0, 0.0, 0.0]
    row = Row.from_completion((1,), tuple(map(ord, "say yes")))
    np.testing.assert_allclose(
        field(terms, "ref_logprobs")[3], engine.row_logprobs(row, engine.start).detach(), atol=1e-5
    )


def test_an_adaptive_coefficient_follows_the_mean_over_answers_of_their_sums():
    """KL of 0.2 + 0.1 and of 0.5 nats: 0.4 an answer, not 0.8 nor 0.27; β moves by (0.4/0.5 − 1) · 2/10."""
    ctx = context(Bigram())
    method = Text2Grad(credit="direct", kl="k3_loss", kl_coef=0.1, kl_target=0.5, kl_horizon=10)
    method._adapt(ctx, 0.1, [np.array([0.2, 0.1]), np.array([0.5])])
    assert ctx.metrics["kl"] == pytest.approx(0.4)
    assert ctx.metrics["kl_coef"] == 0.1
    assert ctx.method_state == {"kl_coef": pytest.approx(0.1 * (1 - 0.2 * 2 / 10))}
    method._adapt(ctx, 0.1, [np.array([0.2, 0.1]), np.array([0.74])])
    assert ctx.method_state == {"kl_coef": pytest.approx(0.1 * (1 + 0.04 * 2 / 10))}


def test_an_adaptive_coefficient_moves_towards_its_target():
    engine, memory, notes = Bigram(moved=0.5), {}, {}
    method = Text2Grad(credit="direct", kl="k3_loss", kl_coef=0.1, kl_target=1e-3, kl_horizon=10)
    terms = rows(method, engine, batch(engine), method_state=memory, metrics=notes)
    assert notes["kl_coef"] == terms[0].loss.settings["kl_coef"] == 0.1
    assert notes["kl"] > 1e-2
    assert memory == {"kl_coef": pytest.approx(0.1 * (1 + 0.2 * 4 / 10))}  # far above: clipped at .2
    terms = rows(method, engine, batch(engine), method_state=memory, metrics=notes)
    assert notes["kl_coef"] == terms[0].loss.settings["kl_coef"] == pytest.approx(0.108)
    near, memory = notes["kl"] / 1.1, {"kl_coef": 0.1}
    aimed = method.model_copy(update={"kl_target": near})
    rows(aimed, engine, batch(engine), method_state=memory)
    assert memory["kl_coef"] == pytest.approx(0.1 * (1 + 0.1 * 4 / 10))
    relaxed, memory = method.model_copy(update={"kl_target": 1e6}), {"kl_coef": 0.1}
    rows(relaxed, engine, batch(engine), method_state=memory)
    assert memory["kl_coef"] == pytest.approx(0.092)
    fixed = {}
    rows(Text2Grad(credit="direct"), engine, batch(engine), method_state=fixed)
    assert fixed == {}


def test_an_adaptive_coefficient_weighs_the_reward_too():
    engine = Bigram(moved=0.3)
    method = Text2Grad(credit="direct", kl_target=1.0)
    half, whole = (
        field(rows(method, engine, [engine.answer("ab")], method_state={"kl_coef": beta}), "advantages")[0]
        for beta in (0.2, 0.4)
    )
    np.testing.assert_allclose(whole, np.multiply(half, 2), rtol=1e-5)


def test_without_a_kl_no_reference_is_asked_for():
    engine = Bigram()
    engine.logprobs = None
    assert not Text2Grad(kl_coef=0).needs_reference
    assert Text2Grad().needs_reference
    assert rows(Text2Grad(kl_coef=0), engine, batch(Bigram()))


# ── refused ───────────────────────────────────────────────────────────────────────────────────────


def test_an_engine_without_a_critic_refuses_gae_and_names_critic_free():
    engine = Bigram(capabilities=Capabilities())
    with pytest.raises(CapabilityError, match="credit=critic_free"):
        Text2Grad().collect(context(engine), [])
    for credit in ("direct", "critic_free"):
        Text2Grad(credit=credit).check(context(engine))


def test_an_engine_without_full_kl_refuses_it_and_names_another():
    engine = Bigram(capabilities=Capabilities(value_head=True))
    with pytest.raises(CapabilityError, match="kl=k1"):
        Text2Grad(kl="full").collect(context(engine), [])
    Text2Grad(kl="full", kl_coef=0).check(context(engine))


def test_given_answers_are_for_direct_alone():
    given_answers = context(Bigram(), offline=object())
    with pytest.raises(UsageError, match="credit=direct"):
        Text2Grad(credit="critic_free").check(given_answers)
    Text2Grad(credit="direct").check(given_answers)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"credit": "gaee"}, "did you mean 'gae'"),
        ({"credit": {"kind": "direct", "lam": 0.5}}, "credit"),
        ({"credit": "direct", "kl": "full"}, "kl=k1 or kl=k3_loss"),
        ({"credit": "direct", "kl": "k3"}, "kl=k1 or kl=k3_loss"),
        ({"credit": "critic_free", "samples": 1}, "samples=2"),
        ({"spans": {"compat": "kodcode", "good": 2.0}}, "leave out good"),
        ({"credit": {"lam": 1.5}}, "lam"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        make_method("text2grad", settings)


def test_settings_survive_their_own_dump():
    method = make_method("text2grad", {"credit": {"lam": 0.5}, "spans": {"soft": True}})
    assert method.credit.kind == "gae"
    assert make_method("text2grad", method.model_dump(mode="json")) == method
    assert make_method("text2grad", {"credit": "direct"}).value_head is None
    assert make_method("text2grad", {"credit": {"value_lr_scale": 5.0}}).value_head.lr_scale == 5
