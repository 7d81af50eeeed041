"""TinkerEngine gives the gradients of the contract on servers that add losses up otherwise, or refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from didact.engines.base import POLICY, REFERENCE, AdamParams, Loss, SamplingParams
from didact.engines.tinker import TinkerEngine, TinkerError
from didact.engines.tinker.engine import ModelFiles
from didact.engines.tinker.server_behavior import ServerBehavior, known_differences, measure
from didact.errors import CapabilityError, CheckpointError, NonFiniteError, TrainingGuard, UsageError
from didact.losses import LossOutput, importance_sampling
from didact.types import Row
from tests.engines.tinker_fake import FakeService, Faults
from tests.numerics import assert_close

RANK = 4
MEAN = ServerBehavior(reduction="mean of row means", soft_targets=0)
ADAM = AdamParams(lr=1e-2, max_grad_norm=float("inf"))


@pytest.fixture
def make_service(make_model, tokenizer, tmp_path):
    def make(**faults):
        return FakeService(make_model, tokenizer, tmp_path, Faults(**faults))

    return make


@pytest.fixture
def make_tinker(make_service, tokenizer):
    """make_tinker(behavior, **faults): an engine that believes `behavior` of a server that has `faults`."""

    def make(behavior=None, **faults):
        behavior = behavior or ServerBehavior(soft_targets=4)
        if behavior.reduction != "sum":
            faults = {"reduction": "rows"} | faults
        return TinkerEngine(
            make_service(**faults),
            ModelFiles(tokenizer, {tokenizer.eos_token_id}, 128, 260),
            rank=RANK,
            behavior=behavior,
        )

    return make


def adapter(engine):
    """All trained numbers of a LocalEngine."""
    return torch.cat([p.detach().flatten() for p in engine.model.parameters() if p.requires_grad])


def quadratic(logprobs_BT, *, weights_BT, advantages_BT, old_logprobs_BT, strength=1.0):
    """No server has it by name."""
    loss = (strength * weights_BT * advantages_BT * (logprobs_BT - old_logprobs_BT) ** 2).sum()
    return LossOutput(loss, {"rows": float(len(logprobs_BT))})


def signed(rows):
    """Every third weight negative, every fourth 0, and one row that counts for nothing."""
    made = []
    for i, row in enumerate(rows):
        turns = np.arange(len(row))
        factor = np.where(turns % 3 == 0, -1, 1) * (turns % 4 != 0) * (i != 2)
        weights = (row.fields["weights"] * factor).astype(np.float32)
        made.append(replace(row, fields={**row.fields, "weights": weights}))
    return made


def only(rows, *names):
    return [replace(r, fields={k: r.fields[k] for k in ("weights", *names)}) for r in rows]


def calls_of(kind, rows):
    """Several forward_backward calls of one step."""
    policy = only(rows, "advantages", "old_logprobs")
    if kind == "cross_entropy":
        return [(only(rows), Loss(kind))]
    if kind == "policy_gradient":
        return [(only(rows, "advantages"), Loss(kind))]
    if kind == "with_kl":
        kl = [replace(r, fields={**r.fields, "ref_logprobs": r.fields["old_logprobs"]}) for r in policy]
        return [(kl, Loss("ppo", {"kl_coef": 0.1}))]
    if kind == "custom":
        return [(policy, Loss("mine", {"strength": 0.5}, fn=quadratic))]
    if kind == "two_terms":
        return [(policy, Loss("cispo")), (only(rows[:3]), Loss("cross_entropy"))]
    return [(policy, Loss(kind))]


KINDS = (
    "cross_entropy",
    "policy_gradient",
    "importance_sampling",
    "ppo",
    "cispo",
    "with_kl",
    "custom",
    "two_terms",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("behavior", [None, MEAN], ids=["sums", "averages"])
@pytest.mark.parametrize("signs", ["positive", "signed"])
def test_two_steps_leave_the_adapter_where_the_local_engine_leaves_it(
    make_tinker, rows, behavior, kind, signs
):
    rows = signed(rows) if signs == "signed" else rows
    engine = make_tinker(behavior)
    local = engine.service.engine(RANK, 0)
    start = adapter(local).clone()
    for _ in range(2):
        for batch, loss in calls_of(kind, rows):
            got, expected = engine.forward_backward(batch, loss), local.forward_backward(batch, loss)
            assert got.loss == pytest.approx(expected.loss, rel=1e-4, abs=1e-4)
            for name in got.metrics.keys() - {"rows"}:
                assert got.metrics[name] == pytest.approx(expected.metrics[name], rel=1e-4, abs=1e-4)
        norm = engine.optim_step(ADAM).metrics["grad_norm"]
        assert norm == pytest.approx(local.optim_step(ADAM).metrics["grad_norm"], rel=1e-4)
    moved = adapter(local) - start
    # Adam divides by |g|: entries whose gradient is rounding alone may go either way.
    error = (adapter(engine._trainer.engine) - adapter(local)).norm() / moved.norm()
    assert moved.norm() > 0
    assert error < 2e-3


def test_soft_targets_go_as_weights(make_tinker, rows):
    draw = np.random.default_rng(1)
    soft = []
    for row in only(rows):
        targets = draw.integers(4, 260, (len(row), 4))
        probs = draw.dirichlet(np.ones(4), len(row)).astype(np.float32)
        soft.append(Row(row.input_ids, targets, {**row.fields, "target_probs": probs}))
    engine = make_tinker()
    local = engine.service.engine(RANK, 0)
    start = adapter(local).clone()
    for e in (engine, local):
        assert e.forward_backward(soft, Loss("cross_entropy")).loss > 0
        e.optim_step(ADAM)
    assert_close(adapter(engine._trainer.engine) - start, adapter(local) - start, rel=2e-3)
    with pytest.raises(CapabilityError, match=r"4 soft targets"):
        make_tinker(MEAN).forward_backward(soft, Loss("cross_entropy"))


# ── what is measured ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("faults", "found"),
    [
        ({}, ServerBehavior(soft_targets=20)),
        (
            {"reduction": "rows", "clips": False, "shared_snapshots": True, "soft_targets": False},
            ServerBehavior("mean of row means", clips=False, snapshots=False),
        ),
        ({"with_temperature": True}, ServerBehavior(raw_logprobs=False, soft_targets=20)),
    ],
)
def test_what_a_server_does_is_measured(make_service, tokenizer, faults, found):
    service = make_service(**faults)
    ids = tuple(tokenizer.encode("Spell this backward"))
    assert measure(service, ids[:8], ids[8:], rank=RANK) == found
    assert service.alive == 0


def test_a_reduction_that_cannot_be_undone_is_refused(make_service, tokenizer):
    ids = tuple(tokenizer.encode("Spell this backward"))
    with pytest.raises(TrainingGuard, match=r"2 times.*1 times"):
        measure(make_service(reduction="tokens"), ids[:8], ids[8:], rank=RANK)


# ── an update is never done twice ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lost", ["optim_step", "forward_backward"])
@pytest.mark.parametrize("behavior", [None, MEAN], ids=["sums", "averages"])
def test_an_update_whose_answer_is_lost_is_not_repeated(make_tinker, rows, tmp_path, lost, behavior):
    engine = make_tinker(behavior)
    (tmp_path / "saved").mkdir()
    engine.save(tmp_path / "saved")
    before = engine.weights_hash()
    engine.service.faults.loses = lost
    with pytest.raises(TinkerError, match="--resume"):  # noqa: PT012
        engine.forward_backward(only(rows), Loss("cross_entropy"))
        engine.optim_step(ADAM)
    assert engine._trainer.steps <= 1
    asked = list(engine.service.log)
    for call in (
        lambda: engine.optim_step(ADAM),
        lambda: engine.forward_backward(only(rows), Loss("cross_entropy")),
        lambda: engine.save(tmp_path),
        lambda: engine.sample([(5,)], 1, SamplingParams(max_tokens=2), seed=0),
        engine.weights_hash,
    ):
        with pytest.raises(TinkerError, match="--resume"):
            call()
    assert engine.service.log == asked
    engine.load(tmp_path / "saved")
    assert engine.weights_hash() == before
    engine.forward_backward(only(rows), Loss("cross_entropy"))
    engine.optim_step(ADAM)
    assert engine.weights_hash() != before


def test_a_failed_reading_leaves_no_doubt(make_tinker, rows):
    engine = make_tinker()
    engine.service.faults.loses = "forward"
    with pytest.raises(TinkerError):
        engine.logprobs(rows)
    assert len(engine.logprobs(rows)) == len(rows)


def test_nothing_is_waited_for_between_the_backward_passes_and_the_step(make_tinker, rows):
    engine = make_tinker(MEAN)
    for batch, loss in calls_of("two_terms", rows):
        engine.forward_backward(batch, loss)
    engine.service.log.clear()
    engine.optim_step(ADAM)
    assert engine.service.log == [
        "forward_backward",
        "forward_backward",
        "optim_step",
        "wait forward_backward",
        "wait forward_backward",
        "wait optim_step",
    ]


def test_on_a_server_that_sums_a_linearised_loss_is_sent_at_once_and_not_waited_for(make_tinker, rows):
    engine = make_tinker()
    [(batch, loss)] = calls_of("custom", rows)
    engine.forward_backward(batch, loss)
    assert engine.service.log[-3:] == ["forward", "wait forward", "forward_backward"]


def test_a_loss_that_is_not_finite_is_not_sent(make_tinker, rows):
    engine = make_tinker(MEAN)
    broken = replace(rows[0], fields={**rows[0].fields, "weights": rows[0].fields["weights"] * np.nan})
    with pytest.raises(NonFiniteError, match="nothing was sent"):
        engine.forward_backward([broken], Loss("ppo"))
    assert "forward_backward" not in engine.service.log
    engine = make_tinker()
    with pytest.raises(NonFiniteError, match="load the last checkpoint"):
        engine.forward_backward([broken], Loss("ppo"))
    with pytest.raises(TinkerError, match="--resume"):
        engine.optim_step(ADAM)


def test_a_step_without_a_gradient_is_refused(make_tinker, rows):
    engine = make_tinker()
    nothing = replace(rows[0], fields={"weights": rows[0].fields["weights"] * 0})
    assert engine.forward_backward([nothing], Loss("cross_entropy")).loss == 0
    with pytest.raises(TrainingGuard, match="forward_backward"):
        engine.optim_step(ADAM)


# ── what it cannot do ─────────────────────────────────────────────────────────────────────────────


def test_what_a_server_does_not_give_is_refused_and_not_left_out(make_tinker, rows):
    engine = make_tinker()
    with pytest.raises(CapabilityError, match=r"settings\.entropy_coef=0"):
        engine.forward_backward(rows, Loss("ppo", entropy_coef=0.1))
    for change in ({"repetition_penalty": 1.1}, {"min_tokens": 2}):
        with pytest.raises(CapabilityError, match=r"sampling\.min_tokens=0"):
            engine.sample([(5, 6)], 1, SamplingParams(max_tokens=4, **change), seed=0)
    assert engine.sample([(5, 6)], 1, SamplingParams(max_tokens=4), seed=0)


def test_there_is_no_value_head(make_tinker, rows):
    engine = make_tinker()
    assert not engine.capabilities.value_head
    with pytest.raises(CapabilityError, match="critic_free"):
        engine.values(rows)
    values = {"returns": rows[0].fields["weights"], "old_values": rows[0].fields["weights"]}
    with pytest.raises(CapabilityError, match="critic_free"):
        engine.forward_backward([replace(rows[0], fields={**rows[0].fields, **values})], Loss("actor_critic"))
    with pytest.raises(CapabilityError, match="kl: full"):
        engine.full_kl(rows)


def test_top_logprobs_and_named_snapshots_are_refused_with_the_reason(make_tinker, rows):
    engine = make_tinker()
    assert not engine.capabilities.top_logprobs
    assert not engine.capabilities.named_snapshots
    assert engine.snapshot_names == frozenset()
    with pytest.raises(CapabilityError, match="top_logprobs"):
        engine.top_logprobs(rows, 3)
    for call in (
        lambda: engine.snapshot("average"),
        lambda: engine.update_snapshot("average", 0.5),
        lambda: engine.drop_snapshot("average"),
    ):
        with pytest.raises(CapabilityError, match="named snapshots"):
            call()


def test_clipping_is_refused_where_the_server_ignores_it(make_tinker, rows):
    engine = make_tinker(replace(MEAN, clips=False), clips=False)
    engine.forward_backward(only(rows), Loss("cross_entropy"))
    with pytest.raises(CapabilityError, match=r"optim\.max_grad_norm to 1e\+06"):
        engine.optim_step(AdamParams())
    engine.optim_step(AdamParams(max_grad_norm=1e6))


def test_snapshots_keep_or_are_refused(make_tinker, rows):
    engine = make_tinker()
    kept = engine.snapshot()
    before = engine.logprobs(only(rows), weights=kept)
    engine.forward_backward(only(rows), Loss("cross_entropy"))
    engine.optim_step(ADAM)
    for a, b in zip(before, engine.logprobs(only(rows), weights=kept), strict=True):
        np.testing.assert_array_equal(a, b)
    gone = kept.name
    del kept
    with pytest.raises(UsageError, match="snapshot"):
        engine.logprobs(only(rows), weights=type(POLICY)(gone))
    with pytest.raises(CapabilityError, match="snapshots"):
        make_tinker(replace(MEAN, snapshots=False)).snapshot()


# ── sampling and scoring ──────────────────────────────────────────────────────────────────────────


def test_samples_end_where_the_local_engine_ends_them(make_tinker, tokenizer):
    engine = make_tinker()
    prompts = [tuple(tokenizer.encode("ab")), tuple(tokenizer.encode("xyz"))]
    free = engine.sample(prompts, 3, SamplingParams(max_tokens=24), seed=1)
    assert [len(group) for group in free] == [3, 3]
    word = tokenizer.decode(list(free[0][0].ids[4:5]))
    stopped = engine.sample(prompts, 3, SamplingParams(max_tokens=24, stop=(word,)), seed=1)
    assert stopped[0][0].stop_reason == "stop"
    assert stopped[0][0].ids == free[0][0].ids[: len(stopped[0][0].ids)]
    assert len(stopped[0][0].ids) <= 5
    assert engine.sample(prompts, 3, SamplingParams(max_tokens=24), seed=1) == free
    for sample in (s for group in free for s in group):
        assert (sample.stop_reason == "eos") == (sample.ids[-1] in engine.end_ids)


def test_every_prompt_is_submitted_before_the_first_is_waited_for(make_tinker):
    engine = make_tinker()
    engine.sample([(5, 6), (7, 8), (9,)], 1, SamplingParams(max_tokens=2), seed=0)
    assert engine.service.log == ["sampler", "sample", "sample", "sample", *["wait sample"] * 3]


def test_tempered_logprobs_are_scored_again(make_tinker):
    engine = make_tinker(replace(ServerBehavior(), raw_logprobs=False), with_temperature=True)
    [[sample]] = engine.sample([(5, 6)], 1, SamplingParams(max_tokens=8, temperature=0.5), seed=0)
    [scored] = engine.logprobs([Row.from_completion((5, 6), sample.ids)])
    assert_close(np.asarray(sample.logprobs), scored[-len(sample.ids) :])


def test_a_completion_without_its_end_id_is_refused(make_tinker):
    engine = make_tinker(drops_end=True)
    with pytest.raises(TinkerError, match="end id"):
        engine.sample([(5, 6)] * 8, 8, SamplingParams(max_tokens=60), seed=0)


def test_logprobs_are_those_of_the_model(make_tinker, rows):
    engine = make_tinker()
    local = engine.service.engine(RANK, 0)
    for weights in (POLICY, REFERENCE):
        scored = [e.logprobs(only(rows), weights=weights) for e in (engine, local)]
        for got, expected in zip(*scored, strict=True):
            assert_close(got, expected)
    shifted = replace(only(rows)[0], target_ids=only(rows)[0].target_ids[::-1].copy())
    with pytest.raises(CapabilityError, match=r"Row\.from_completion"):
        engine.logprobs([shifted], weights=REFERENCE)


# ── checkpoints ───────────────────────────────────────────────────────────────────────────────────


def test_a_checkpoint_brings_weights_and_moments_back(make_tinker, rows, tmp_path):
    (tmp_path / "saved").mkdir()
    hashes = []
    for interrupted in (False, True):
        engine = make_tinker(MEAN)
        for step in range(3):
            engine.forward_backward(only(rows), Loss("cross_entropy"))
            engine.optim_step(ADAM)
            if interrupted and step == 1:
                engine.save(tmp_path / "saved")
                engine.forward_backward(only(rows[:2]), Loss("cross_entropy"))
                engine.optim_step(ADAM)
                engine.load(tmp_path / "saved")
        hashes.append(engine.weights_hash())
        assert engine.service.alive == 1
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        (json.dumps({"path": "x-4", "base_model": "other", "rank": 4}), "of model 'other' with rank 4"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(make_tinker, tmp_path, text, message):
    engine = make_tinker()
    (tmp_path / "tinker.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        engine.load(tmp_path)
    assert engine.weights_hash()


def test_the_importance_sampling_of_the_table_is_the_gradient_asked_for():
    """−Σ ρ A with ρ = 1 has the gradient −A, whatever its sign."""
    logprobs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    wanted = torch.tensor([[0.3, -0.7]])
    out = importance_sampling(
        logprobs,
        weights_BT=torch.ones(1, 2),
        advantages_BT=-wanted,
        old_logprobs_BT=logprobs.detach().clone(),
    )
    out.loss.backward()
    torch.testing.assert_close(logprobs.grad, wanted)


def test_the_known_differences_are_those_of_the_server_and_of_the_sdk():
    found = {known["server"] for known in known_differences("SkyRL (Tinker API Mock 0.0.1), tinker 0.25.0")}
    assert found == {"SkyRL", "SkyRL, JAX backend", "tinker SDK"}
    assert {known["server"] for known in known_differences("unknown server")} == {"tinker SDK"}
