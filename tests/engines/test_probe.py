"""The probe passes an engine that keeps the contract and catches each way of breaking it."""

from dataclasses import replace

import numpy as np
import pytest

from didact.engines.base import AdamParams, Loss, Sample, TopLogprobs
from didact.engines.local import LoraSettings
from didact.engines.probe import ProbeResult, probe
from didact.types import Row


def failures(engine):
    return {result.name for result in probe(engine) if not result.holds}


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4)])
def test_the_local_engine_holds(make_engine, shape, lora):
    results = probe(make_engine(shape, lora=lora))
    assert [str(r) for r in results if not r.holds] == []
    assert len(results) == 17


def test_the_probe_leaves_the_engine_as_it_found_it(make_engine, rows):
    probed, untouched = make_engine(), make_engine()
    for engine in (probed, untouched):
        engine.forward_backward(rows, Loss("ppo"))
        engine.optim_step(AdamParams(lr=1e-2))
    probe(probed)
    for engine in (probed, untouched):  # the optimizer's moments are as they were, too
        engine.forward_backward(rows, Loss("ppo"))
        engine.optim_step(AdamParams(lr=1e-2))
    assert probed.weights_hash() == untouched.weights_hash()


class Broken:
    """An engine that passes everything on; subclasses break one promise."""

    def __init__(self, engine):
        self.engine = engine

    def __getattr__(self, name):
        return getattr(self.engine, name)


def reweighted(row, weights_T):
    return replace(row, fields={**row.fields, "weights": weights_T.astype(np.float32)})


class DividesRowsByTheirWeightSum(Broken):
    """What a public server did: −1 as weight gave 1/ε, and 2 gave the same as 1."""

    def forward_backward(self, rows, loss):
        sums = [max(row.fields["weights"].sum(), 1e-9) for row in rows]
        rows = [reweighted(r, r.fields["weights"] / s) for r, s in zip(rows, sums, strict=True)]
        return self.engine.forward_backward(rows, loss)


class AveragesOverRows(Broken):
    def forward_backward(self, rows, loss):
        rows = [reweighted(r, r.fields["weights"] / len(rows)) for r in rows]
        return self.engine.forward_backward(rows, loss)


class AveragesOverTokens(Broken):
    def forward_backward(self, rows, loss):
        tokens = sum((r.fields["weights"] != 0).sum() for r in rows)
        rows = [reweighted(r, r.fields["weights"] / tokens) for r in rows]
        return self.engine.forward_backward(rows, loss)


class TakesWeightsAsAMask(Broken):
    def forward_backward(self, rows, loss):
        rows = [reweighted(r, (r.fields["weights"] != 0) * 1.0) for r in rows]
        return self.engine.forward_backward(rows, loss)


class KeepsOnlyTheLastCall(Broken):
    def forward_backward(self, rows, loss):
        self.engine._clear_gradient()
        return self.engine.forward_backward(rows, loss)


class SpreadsAdvantagesOverTheRow(Broken):
    def forward_backward(self, rows, loss):
        if loss.name == "policy_gradient":
            rows = [
                Row(r.input_ids, r.target_ids, {**r.fields, "advantages": r.fields["advantages"] * 0 + a})
                for r, a in ((r, np.float32(r.fields["advantages"].sum())) for r in rows)
            ]
        return self.engine.forward_backward(rows, loss)


class ClipsFromZero(Broken):
    """Takes the clip's ε for the threshold itself."""

    def forward_backward(self, rows, loss):
        if loss.fn is None and loss.name in ("ppo", "cispo"):
            loss = Loss(loss.name, {"clip_low": 1.0, "clip_high": 1.0})
        return self.engine.forward_backward(rows, loss)


class ForgetsTheRatio(Broken):
    def forward_backward(self, rows, loss):
        if loss.fn is None and loss.name == "importance_sampling":
            loss = Loss("policy_gradient")
        return self.engine.forward_backward(rows, loss)


class Maximises(Broken):
    def forward_backward(self, rows, loss):
        return self.engine.forward_backward([reweighted(r, -r.fields["weights"]) for r in rows], loss)


class ReportsTemperedLogprobs(Broken):
    def sample(self, prompts, n, params, **kwargs):
        groups = self.engine.sample(prompts, n, params, **kwargs)
        return [[Sample(s.ids, tuple(x / 0.7 for x in s.logprobs), s.stop_reason) for s in g] for g in groups]


class NeverSteps(Broken):
    def optim_step(self, params):
        return self.engine.optim_step(replace(params, lr=0.0))


class ReportsTheNormAfterClipping(Broken):
    def optim_step(self, params):
        output = self.engine.optim_step(params)
        return output._replace(metrics={"grad_norm": min(1.0, output.metrics["grad_norm"])})


class ReportsTwiceTheNorm(Broken):
    def forward_backward(self, rows, loss):
        output = self.engine.forward_backward(rows, loss)
        return output._replace(metrics={**output.metrics, "grad_norm": 2 * output.metrics["grad_norm"]})


class ComparesWithItself(Broken):
    def forward_backward(self, rows, loss):
        output = self.engine.forward_backward(rows, loss)
        return output._replace(metrics={**output.metrics, "cosine": 1.0})


class SaysThatItComparesAndDoesNot(Broken):
    def forward_backward(self, rows, loss):
        return self.engine.forward_backward(rows, loss)._replace(metrics={})


class RanksTheUnlikeliestFirst(Broken):
    def top_logprobs(self, rows, k, **kwargs):
        tops = self.engine.top_logprobs(rows, k, **kwargs)
        return [TopLogprobs(top.ids[:, ::-1], top.logprobs[:, ::-1]) for top in tops]


class TemperedTopLogprobs(Broken):
    def top_logprobs(self, rows, k, **kwargs):
        tops = self.engine.top_logprobs(rows, k, **kwargs)
        return [TopLogprobs(top.ids, top.logprobs / 0.7) for top in tops]


class SwapsTheDecay(Broken):
    def update_snapshot(self, name, decay):
        self.engine.update_snapshot(name, 1 - decay)


@pytest.mark.parametrize(
    ("kind", "caught"),
    [
        (DividesRowsByTheirWeightSum, {"twice the weights", "a row in two parts", "a negative weight"}),
        (AveragesOverRows, {"two equal rows"}),
        (AveragesOverTokens, {"two equal rows", "a row in two parts"}),
        (TakesWeightsAsAMask, {"twice the weights", "a negative weight"}),
        (KeepsOnlyTheLastCall, {"two calls", "a row in two parts"}),
        (SpreadsAdvantagesOverTheRow, {"an advantage on one token against a weight on it"}),
        (ClipsFromZero, {"ppo by name against its function", "cispo by name against its function"}),
        (ForgetsTheRatio, {"importance_sampling by name against its function"}),
        (Maximises, {"a step raises the log-probs it trains (sign)"}),
        (NeverSteps, {"a step raises the log-probs it trains (sign)"}),
        (ReportsTemperedLogprobs, {"log-probs of sample and logprobs"}),
        (ReportsTheNormAfterClipping, {"finite difference over |gradient|²"}),
        (ReportsTwiceTheNorm, {"norms and cosine of two calls over |gradient|²"}),
        (ComparesWithItself, {"norms and cosine of two calls over |gradient|²"}),
        (RanksTheUnlikeliestFirst, {"top_logprobs has the likeliest token first"}),
        (TemperedTopLogprobs, {"log-probs of top_logprobs and logprobs"}),
        (SwapsTheDecay, {"an average with decay 1 against the old weights"}),
        (SaysThatItComparesAndDoesNot, {"norms and cosine of two calls over |gradient|²"}),
    ],
)
def test_a_broken_promise_is_caught(make_engine, kind, caught):
    assert caught <= failures(kind(make_engine()))


def test_a_measurement_that_is_nan_does_not_hold():
    assert not ProbeResult("x", float("nan"), 1.0, 0.1).holds
    assert ProbeResult("x", 1.05, 1.0, 0.1).holds
    assert not ProbeResult("x", 1.2, 1.0, 0.1).holds
