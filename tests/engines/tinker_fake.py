"""A Tinker-protocol server in this process: adapters are LocalEngines, and its faults can be switched on."""

from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from didact.engines.base import REFERENCE, Loss
from didact.engines.local import LocalEngine, LoraSettings
from didact.engines.tinker.wire import TinkerError
from didact.errors import NonFiniteError
from didact.types import Row


@dataclass
class Faults:
    """Each one departs from the contract as some server did or could."""

    reduction: str = "sum"
    """"rows": divide by a row's weight sum and the rows of a step; "tokens": by the tokens of a call."""
    clips: bool = True
    shared_snapshots: bool = False
    """A sampler has the adapter's weights of the moment, not those that were kept."""
    with_temperature: bool = False
    flips: bool = False
    soft_targets: bool = True
    loses: str | None = None
    """This request is done, and its answer is lost; once."""
    drops_end: bool = False
    clip_is_epsilon: bool = False


class Done:
    def __init__(self, service, what, value):
        self.service, self.what, self.value = service, what, value

    def wait(self):
        self.service.log.append(f"wait {self.what}")
        if isinstance(self.value, TinkerError):
            raise self.value
        return self.value


@dataclass
class FakeService:
    """`make_model()` gives equal models; adapters of equal rank and seed start equal."""

    make_model: object
    tokenizer: object
    folder: object
    """Where checkpoints lie."""
    faults: Faults = field(default_factory=Faults)
    log: list = field(default_factory=list)
    """Every request and every wait, in order."""
    alive: int = 0
    """Adapters that were made and not closed."""
    name: str = "fake 1.0"
    base_model: str = "tiny"

    def create(self, *, rank, seed):
        return FakeTrainer(self, self.engine(rank, seed), rank)

    def engine(self, rank, seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            lora = LoraSettings(rank=rank)
            return LocalEngine(self.make_model(), self.tokenizer, lora=lora, device="cpu", dtype="float32")

    def restore(self, path):
        self.log.append("restore")
        rank = int(path.rsplit("-", 1)[1])
        trainer = self.create(rank=rank, seed=99)
        trainer.engine.load(self.folder / path)
        return trainer

    def reference(self):
        return FakeSampler(self, self.engine(1, 0), REFERENCE)


class FakeTrainer:
    def __init__(self, service, engine, rank):
        self.service, self.engine, self.rank, self.rows, self.steps = service, engine, rank, 0, 0
        service.alive += 1

    def _answer(self, what, value):
        self.service.log.append(what)
        if self.service.faults.loses == what:
            self.service.faults.loses = None
            value = TinkerError("the server did not answer within 1 s")
        return Done(self.service, what, value)

    def forward(self, data):
        if data[0].inputs["target_tokens"].ndim == 2 and not self.service.faults.soft_targets:
            return self._answer("forward", TinkerError("the server failed at forward: 422"))
        return self._answer("forward", self.engine.logprobs([_row(d) for d in data]))

    def forward_backward(self, data, loss, settings):
        faults = self.service.faults
        rows = [_row(d) for d in data]
        logprobs = self.engine.logprobs(rows)
        tokens = sum(len(r) for r in rows)
        scaled = []
        for row in rows:
            weights = row.fields["weights"]
            in_row = max(float(weights.sum()), 1e-9)
            divisor = {"rows": in_row, "tokens": tokens, "sum": 1.0}[faults.reduction]
            sign = -1.0 if faults.flips else 1.0
            fields = {**row.fields, "weights": (sign * weights / divisor).astype(np.float32)}
            scaled.append(Row(row.input_ids, row.target_ids, fields))
        clip = {}
        if settings:
            low, high = settings["clip_low_threshold"], settings["clip_high_threshold"]
            clip = {"clip_low": 1 - low, "clip_high": high - 1}
            if faults.clip_is_epsilon:
                clip = {"clip_low": low, "clip_high": high}
        with suppress(NonFiniteError):  # a server adds what it is given
            self.engine.forward_backward(scaled, Loss(loss, clip))
        self.rows += len(rows)
        return self._answer("forward_backward", logprobs)

    def optim_step(self, params):
        if self.service.faults.reduction == "rows":
            for p in self.engine.model.parameters():
                if p.grad is not None:
                    p.grad /= self.rows
        if not self.service.faults.clips:
            params = replace(params, max_grad_norm=float("inf"))
        metrics = self.engine.optim_step(params).metrics
        self.rows, self.steps = 0, self.steps + 1
        return self._answer("optim_step", {f"server/{k}": v for k, v in metrics.items()})

    def save(self, name):
        path = self.service.folder / f"{name}-{self.rank}"
        path.mkdir()
        self.engine.save(path)
        return self._answer("save", path.name)

    def sampler(self):
        self.service.log.append("sampler")
        weights = None if self.service.faults.shared_snapshots else self.engine.snapshot()
        return FakeSampler(self.service, self.engine, weights)

    def download(self, path, name):
        return False

    def close(self):
        self.service.alive -= 1


class FakeSampler:
    def __init__(self, service, engine, weights):
        self.service, self.engine = service, engine
        self.at = {} if weights is None else {"weights": weights}

    def sample(self, prompt, n, params, *, seed, end_ids):
        params = replace(params, stop=())
        [drawn] = self.engine.sample([prompt], n, params, seed=[seed], **self.at)
        factor = params.temperature if self.service.faults.with_temperature else 1.0
        found = []
        for s in drawn:
            keep = len(s.ids) - (self.service.faults.drops_end and s.stop_reason == "eos")
            logprobs = tuple(x / factor for x in s.logprobs[:keep])
            found.append(s._replace(ids=s.ids[:keep], logprobs=logprobs))
        self.service.log.append("sample")
        return Done(self.service, "sample", found)

    def logprobs(self, ids):
        [found] = self.engine.logprobs([Row.from_completion(ids[:1], ids[1:])], **self.at)
        return Done(self.service, "logprobs", list(map(float, found)))


def _row(datum):
    targets = datum.inputs["target_tokens"]
    fields = {"weights": np.ones(len(targets), np.float32)}
    if targets.ndim == 2:
        # [T, K] weights: w q; LocalEngine has them apart.
        fields["target_probs"] = datum.inputs["weights"]
    elif "weights" in datum.inputs:
        fields["weights"] = datum.inputs["weights"]
    if "advantages" in datum.inputs:
        fields |= {"advantages": datum.inputs["advantages"], "old_logprobs": datum.inputs["logprobs"]}
    return Row(datum.tokens, targets, fields)
