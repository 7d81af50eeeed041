"""TinkerEngine: a LoRA adapter on a Tinker server, behind the contract of `engines/base.py`.

Requests of one adapter are executed in the order of submission, so the engine submits early and waits late:

* `sample` submits every prompt before it waits for the first.
* A loss that the server has by name is one forward_backward, which is waited for because StepOutput needs the
  log-probs.
* Any other loss is a forward pass, which is waited for, and a forward_backward of its gradient, which is not.
* A server that averages over the rows of a step gets all backward passes together with the optim_step,
  because the factors depend on the number of rows.

No update is sent twice by the engine; the SDK repeats a request under its number, which a conforming server
answers with the first result. If an update's answer is lost all the same, the adapter's state is unknown: the
engine then refuses everything except `load`, so that the run goes on from its checkpoint.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import uuid
import weakref
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from didact.engines.base import (
    POLICY,
    REFERENCE,
    AdamParams,
    Capabilities,
    Loss,
    Sample,
    SamplingParams,
    StepOutput,
    Weights,
    refuse_unsupported,
    rescored,
)
from didact.engines.local.sampling import check_prompts, why_stop
from didact.engines.local.scoring import check_rows
from didact.engines.local.training import resolve_loss, takes_values
from didact.engines.probe import probe_text
from didact.engines.tinker.gradients import (
    LossRequest,
    check_targets,
    differentiate,
    linear_loss,
    named_loss,
    scoring_datum,
)
from didact.engines.tinker.server_behavior import (
    NO_CLIP,
    ServerBehavior,
    Unsupported,
    measure,
    no_named_snapshots,
    no_value_head,
)
from didact.engines.tinker.wire import Pending, TinkerError, TinkerSampler, TinkerService, TinkerTrainer
from didact.errors import CapabilityError, CheckpointError, NonFiniteError, TrainingGuard, UsageError
from didact.rng import derive_seed
from didact.types import Ids, Row

FILE = "tinker.json"
"""The file of a checkpoint, with the server's path of the weights and the optimizer state."""


class ModelFiles(NamedTuple):
    """What is read of a model whose weights are on the server."""

    tokenizer: Any
    end_ids: Set[int]
    max_length: int | None
    vocabulary: int


class TinkerEngine(Unsupported):
    """Trains a LoRA adapter on a server that speaks the Tinker protocol.

    Args:
        behavior: Properties of the server; None measures them.

    Raises:
        TrainingGuard: the server's gradients cannot be made those of the contract.
    """

    def __init__(
        self,
        service: TinkerService,
        files: ModelFiles,
        *,
        rank: int = 32,
        seed: int = 0,
        behavior: ServerBehavior | None = None,
    ) -> None:
        self.service, self.base_model, self.rank, self.seed = service, service.base_model, rank, seed
        self.tokenizer, self.end_ids, self.max_length, self._vocabulary = files
        prompt, completion = probe_text(files.tokenizer)
        self._probe_row = Row.from_completion(prompt, completion)
        self.behavior = behavior or measure(service, prompt, completion, rank=rank)
        self.capabilities = Capabilities(
            soft_targets=self.behavior.soft_targets, full_finetune=False, snapshots=self.behavior.snapshots
        )
        self._trainer: TinkerTrainer = service.create(rank=rank, seed=seed)
        self._samplers: dict[str, TinkerSampler] = {}
        """Of each set of weights, created when first needed."""
        self._numbers = itertools.count()
        self._waiting: list[Callable[[int], LossRequest]] = []
        """Backward passes of this step that still have to be sent, as functions of its number of rows."""
        self._sent: list[Pending[Any]] = []
        """Backward passes of this step that were sent but not waited for."""
        self._rows = 0
        """Rows with a nonzero weight since the last step."""
        self._lost: str | None = None
        """Why the state of the adapter is unknown; None while it is known."""

    def sample(
        self,
        prompts: Sequence[Ids],
        n: int,
        params: SamplingParams,
        *,
        seed: int | Sequence[int],
        weights: Weights = POLICY,
    ) -> list[list[Sample]]:
        """See `Engine.sample`. Equal seeds repeat as far as the server does.

        Stop strings are applied to completions that run to an end id; the tokens after them are discarded.
        """
        check_prompts(prompts, n, params, max_length=self.max_length, vocabulary=self._vocabulary)
        refuse_unsupported(self, penalties=params.penalised)
        self._check()
        sampler, ends = self._sampler(weights), sorted(self.end_ids)
        seeds = (
            [derive_seed(seed, "prompt", i) for i in range(len(prompts))] if isinstance(seed, int) else seed
        )
        pending = [
            sampler.sample(tuple(p), n, params, seed=derive_seed(s, "tinker") % 2**31, end_ids=ends)
            for p, s in zip(prompts, seeds, strict=True)
        ]
        drawn = [request.wait() for request in pending]
        groups = [[self._ended(sample, params) for sample in group] for group in drawn]
        return groups if self.behavior.raw_logprobs else rescored(self, prompts, groups, weights=weights)

    def logprobs(self, rows: Sequence[Row], *, weights: Weights = POLICY) -> list[NDArray[np.float32]]:
        check_rows(rows, max_length=self.max_length, vocabulary=self._vocabulary)
        self._check()
        check_targets(rows, self.behavior.soft_targets, server=self.service.name)
        if not rows:
            return []
        if weights == POLICY:
            return self._trainer.forward([scoring_datum(row) for row in rows]).wait()
        sampler = self._sampler(weights)
        texts = []
        for row in rows:
            if row.target_ids.ndim == 2 or (row.input_ids[1:] != row.target_ids[:-1]).any():
                raise CapabilityError(
                    f"on a server, {weights.name} weights score texts only, not other targets: "
                    "score rows as Row.from_completion makes them, or take engine: local"
                )
            texts.append((*row.input_ids.tolist(), int(row.target_ids[-1])))
        pending = [sampler.logprobs(ids) for ids in texts]
        return [np.asarray(request.wait(), np.float32) for request in pending]

    def forward_backward(self, rows: Sequence[Row], loss: Loss) -> StepOutput:
        """See `Engine.forward_backward`.

        Raises:
            NonFiniteError: the loss is NaN or Inf. Nothing was accumulated unless the message mentions it.
        """
        if not rows:
            return StepOutput(0.0, {})
        check_rows(rows, max_length=self.max_length, vocabulary=self._vocabulary)
        self._check()
        fn = resolve_loss(loss, rows[0].fields)
        if takes_values(fn):
            raise no_value_head()
        refuse_unsupported(self, entropy=loss.entropy_coef != 0)
        check_targets(rows, self.behavior.soft_targets, server=self.service.name)
        counting = [row for row in rows if row.fields["weights"].any()]
        if not counting:
            return StepOutput(0.0, {})
        sums = self.behavior.reduction == "sum"
        request = named_loss(counting, loss) if sums else None
        if request is not None:
            sent = self._update(lambda: self._trainer.forward_backward(*request))
            logprobs = self._update(sent.wait)
            try:
                output, _ = differentiate(counting, logprobs, fn, loss.settings, sent=True)
            except NonFiniteError:
                self._lost = "a loss that is not finite was added to the gradient"
                raise
        else:
            logprobs = self._trainer.forward([scoring_datum(row) for row in counting]).wait()
            output, gradients = differentiate(counting, logprobs, fn, loss.settings)
            make = partial(linear_loss, counting, gradients, logprobs)
            if sums:
                self._sent.append(self._update(lambda: self._trainer.forward_backward(*make(None))))
            else:
                self._waiting.append(make)
        self._rows += len(counting)
        return output

    def optim_step(self, params: AdamParams) -> StepOutput:
        """See `Engine.optim_step`.

        Raises:
            TrainingGuard: there is no gradient, because no row had a nonzero weight.
            CapabilityError: the server ignores `max_grad_norm`.
            NonFiniteError: the gradient is NaN or Inf; only `load` works afterwards.
            TinkerError: the step may have been taken or not; only `load` works afterwards.
        """
        self._check()
        self.check_clipping(params.max_grad_norm)
        if not self._rows:
            raise TrainingGuard(
                "there is no gradient to step on: call forward_backward with at least one row of nonzero "
                "weight before optim_step"
            )
        clip = params.max_grad_norm if params.max_grad_norm < NO_CLIP else math.inf
        for request in [make(self._rows) for make in self._waiting]:
            self._sent.append(self._update(partial(self._trainer.forward_backward, *request)))
        stepped = self._update(lambda: self._trainer.optim_step(replace(params, max_grad_norm=clip)))
        for sent in self._sent:
            self._update(sent.wait)
        reported = self._update(stepped.wait)
        self._forget_step()
        norms = [value for name, value in reported.items() if name.endswith("grad_norm")]
        if norms and not math.isfinite(norms[0]):
            self._lost = f"the gradient's norm is {norms[0]}, so the server's adapter is corrupt"
            raise NonFiniteError(
                f"{self._lost}: load the last checkpoint. Look at the rows' weights and advantages, or lower "
                "the learning rate"
            )
        return StepOutput(0.0, {"grad_norm": norms[0]} if norms else {})

    def check_clipping(self, max_grad_norm: float) -> None:
        """Check that the server applies `max_grad_norm`.

        Raises:
            CapabilityError: it does not.
        """
        if not self.behavior.clips and max_grad_norm < NO_CLIP:
            raise CapabilityError(
                f"{self.service.name} ignores max_grad_norm={max_grad_norm:g}: set optim.max_grad_norm to "
                f"{NO_CLIP:g} to train without clipping, or take a server that clips"
            )

    def snapshot(self, name: str | None = None) -> Weights:
        """Keep the current adapter on the server for as long as the handle lives.

        Raises:
            CapabilityError: a named one, or the server's snapshots change with the adapter.
        """
        if not self.behavior.snapshots:
            raise CapabilityError(
                f"snapshots on {self.service.name} change when the adapter trains on: save a checkpoint "
                "instead, or take engine: local"
            )
        if name is not None:
            raise no_named_snapshots()
        self._check()
        handle = Weights(f"snapshot-{next(self._numbers)}")
        self._samplers[handle.name] = self._sampler(POLICY)
        weakref.finalize(handle, self._samplers.pop, handle.name, None)
        return handle

    def weights_hash(self) -> str:
        """A hash of the log-probs of a fixed text, because the weights stay on the server.

        Different hashes mean different weights if the server is deterministic; equal hashes mean that the
        log-probs of that text are bitwise equal.
        """
        self._check()
        [logprobs_T] = self._trainer.forward([scoring_datum(self._probe_row)]).wait()
        return hashlib.sha256(logprobs_T.astype("<f4").tobytes()).hexdigest()

    def model_hash(self) -> str:
        """A hash of the base model's name, the adapter's rank and its seed; the weights cannot be read."""
        return hashlib.sha256(json.dumps([self.base_model, self.rank, self.seed]).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Store weights and optimizer state on the server, and their path in an existing directory.

        The accumulated gradient is not saved. Deleting the directory does not delete the server's copy.
        """
        self._check()
        kept = self._trainer.save(f"didact-{uuid.uuid4().hex[:12]}").wait()
        record = {"path": kept, "base_model": self.base_model, "rank": self.rank, "server": self.service.name}
        (path / FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    def load(self, path: Path) -> None:
        """Replace the adapter by a saved one; clears the gradient and an unknown state.

        Raises:
            CheckpointError: the file is damaged or of another model; nothing was changed.
            TinkerError: the server no longer has it; only another `load` works afterwards.
        """
        file = path / FILE
        try:
            record = json.loads(file.read_bytes())
            kept, found = str(record["path"]), (record["base_model"], record["rank"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file} cannot be read ({error}): take the checkpoint before it") from None
        if found != (self.base_model, self.rank):
            raise CheckpointError(
                f"{file} is of model {found[0]!r} with rank {found[1]}, not of {self.base_model!r} with rank "
                f"{self.rank}"
            )
        self._lost = f"loading {file}"
        self._trainer.close()  # first, so that the new one takes its slot, which has no gradient
        self._trainer, self._lost = self.service.restore(kept), None
        self._forget_step()

    def save_pretrained(self, path: Path) -> None:
        """Write the tokenizer, the adapter if the server lets it be downloaded, and its path there."""
        path.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(path)
        self.save(path)
        if not self._trainer.download(path, f"final-{uuid.uuid4().hex[:12]}"):
            (path / "README.txt").write_text(
                f"The adapter is on the server, at the path in {FILE}; this tinker SDK cannot download it.\n",
                encoding="utf-8",
            )

    def close(self) -> None:
        """Unload the adapter. Checkpoints stay."""
        self._trainer.close()

    def _sampler(self, weights: Weights) -> TinkerSampler:
        if weights.name not in self._samplers:
            if weights == POLICY:
                self._samplers[weights.name] = self._trainer.sampler()
            elif weights == REFERENCE:
                self._samplers[weights.name] = self.service.reference()
            else:
                raise UsageError(
                    f"unknown weights {weights.name!r}: a snapshot lives as long as the handle that "
                    "`snapshot` returned; keep the handle, not its name"
                )
        return self._samplers[weights.name]

    def _ended(self, drawn: Sample, params: SamplingParams) -> Sample:
        """The completion ended as LocalEngine ends it: servers take stop ids or stop strings, not both."""
        for end in range(1, len(drawn.ids) + 1):
            reason = why_stop(drawn.ids[:end], params, self.tokenizer, self.end_ids)
            if reason is not None:
                return Sample(drawn.ids[:end], drawn.logprobs[:end], reason)
        raise TinkerError(
            f"{self.service.name} ended a completion after {len(drawn.ids)} of {params.max_tokens} tokens "
            "without its end id: it cannot be trained on as it was sampled"
        )

    def _update(self, call: Callable[[], Any]) -> Any:
        """Run an update of the adapter; its state is unknown if that fails."""
        try:
            return call()
        except TinkerError as error:
            self._lost = str(error)
            raise TinkerError(
                f"{error}. The update may have been executed, so it is not repeated: go on from the "
                "last checkpoint with `didact train --resume RUN`"
            ) from error

    def _check(self) -> None:
        if self._lost is not None:
            raise TinkerError(
                f"the adapter's state is unknown since {self._lost}: go on from the last checkpoint with "
                "`didact train --resume RUN`"
            )

    def _forget_step(self) -> None:
        self._waiting, self._sent, self._rows = [], [], 0
        self._samplers.pop(POLICY.name, None)
