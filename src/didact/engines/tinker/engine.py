"""TinkerEngine: an adapter that a Tinker-protocol server holds, behind the contract of `engines/base.py`.

What waits for what. Requests of one adapter are done in the order in which they were submitted, so the engine
submits early and waits late:

* `sample` submits every prompt before it waits for the first.
* A loss that the server knows by name is one forward_backward, which the engine waits for because StepOutput
  needs the log-probs.
* Any other loss is a forward pass, which is waited for, and a forward_backward of its gradient, which is not:
  the next call, or optim_step, is submitted behind it.
* A server that averages over the rows of a step is sent all backward passes together, with the optim_step
  right behind them, because the factors need the number of rows.

What is never done twice. The SDK numbers requests and a server that keeps the protocol answers a repeated
number with the first result. Where an update's answer is lost all the same, nobody knows whether it was done:
the engine then refuses everything but `load`, so that a run goes on from its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from didact.engines.base import (
    POLICY,
    AdamParams,
    Capabilities,
    Loss,
    Sample,
    SamplingParams,
    StepOutput,
    ValueHeadSettings,
    Weights,
)
from didact.engines.local.batching import check_rows
from didact.engines.local.sampling import check_prompts
from didact.engines.local.training import resolve_loss, takes_values
from didact.engines.probe import TEXT
from didact.engines.tinker.completions import cut, with_logprobs
from didact.engines.tinker.gradients import Request, differentiate, linear, named, no_value_head, scored
from didact.engines.tinker.measure import measure
from didact.engines.tinker.protocol import Pending, ServerError, Service, Trainer
from didact.engines.tinker.samplers import Samplers
from didact.engines.tinker.server_behavior import NO_CLIP, Behaviour
from didact.engines.tinker.unsupported import Unsupported, no_named_snapshots
from didact.errors import CapabilityError, CheckpointError, NonFiniteError, TrainingGuard
from didact.rng import derive_seed
from didact.types import Ids, Row

FILE = "tinker.json"
"""The file of a checkpoint: where on the server the weights and the optimizer lie."""


class TinkerEngine(Unsupported):
    """Trains a LoRA adapter on a server that speaks the Tinker protocol.

    Args:
        service: The server, connected.
        tokenizer: The model's tokenizer, loaded here: text never leaves as text.
        base_model: The model's name on the server.
        rank: Of the adapter.
        seed: Of the adapter's start.
        end_ids: Ids that end a completion; the tokenizer's eos is added.
        max_length: Tokens that the model takes; None for no limit.
        vocabulary: Ids that the model knows; None for the tokenizer's.
        behaviour: What the server does; None measures it on throw-away adapters.
        value_head: Refused; there is no value head.

    Raises:
        CapabilityError: a value head was requested.
        TrainingGuard: the server's gradients cannot be made those of the contract.
    """

    def __init__(
        self,
        service: Service,
        tokenizer: Any,
        *,
        base_model: str,
        rank: int = 32,
        seed: int = 0,
        end_ids: Sequence[int] = (),
        max_length: int | None = None,
        vocabulary: int | None = None,
        behaviour: Behaviour | None = None,
        value_head: ValueHeadSettings | None = None,
    ) -> None:
        if value_head is not None:
            raise no_value_head()
        self.service, self.tokenizer, self.base_model = service, tokenizer, base_model
        self.rank, self.seed, self.max_length = rank, seed, max_length
        self.end_ids = {i for i in (*end_ids, tokenizer.eos_token_id) if i is not None}
        self._vocabulary: int = vocabulary or len(tokenizer)
        ids = tuple(tokenizer.encode(TEXT))
        prompt, completion = ids[: len(ids) // 2], ids[len(ids) // 2 :]
        self._probe_row = Row.from_completion(prompt, completion)
        self.behaviour = behaviour or measure(service, prompt, completion, rank=rank)
        self.capabilities = Capabilities(
            soft_targets=self.behaviour.soft_targets,
            custom_loss=True,
            full_finetune=False,
            snapshots=self.behaviour.snapshots,
        )
        self._trainer: Trainer = service.create(rank=rank, seed=seed)
        self._samplers = Samplers(service, lambda: self._trainer)
        self._waiting: list[Callable[[int], Request]] = []
        """Backward passes of this step that a server which averages still has to get, given N."""
        self._sent: list[Pending[Any]] = []
        """Backward passes of this step that were sent and not waited for."""
        self._rows = 0
        """Rows of nonzero weight since the last step."""
        self._lost: str | None = None
        """Why nobody knows what the adapter's weights are."""

    # ── sampling and scoring ──────────────────────────────────────────────────────────────────────

    def sample(
        self,
        prompts: Sequence[Ids],
        n: int,
        params: SamplingParams,
        *,
        seed: int | Sequence[int],
        weights: Weights = POLICY,
    ) -> list[list[Sample]]:
        """n completions for each prompt; see `Engine.sample`. A server decides how far equal seeds repeat.

        Stop strings are found here, in what was sampled up to an end id: the tokens after them are paid for
        and thrown away.
        """
        check_prompts(prompts, n, params, max_length=self.max_length, vocabulary=self._vocabulary)
        self._check()
        sampler, ends = self._samplers.of(weights), sorted(self.end_ids)
        seeds = (
            [derive_seed(seed, "prompt", i) for i in range(len(prompts))] if isinstance(seed, int) else seed
        )
        under_way = [
            sampler.sample(tuple(p), n, params, seed=derive_seed(s, "tinker") % 2**31, end_ids=ends)
            for p, s in zip(prompts, seeds, strict=True)
        ]
        drawn = [request.wait() for request in under_way]
        groups = [
            [cut(s, params, self.tokenizer, self.end_ids, server=self.service.name) for s in group]
            for group in drawn
        ]
        if self.behaviour.raw_logprobs:
            return groups
        rows = [Row.from_completion(p, s.ids) for p, g in zip(prompts, groups, strict=True) for s in g]
        return with_logprobs(groups, self.logprobs(rows, weights=weights))

    def logprobs(self, rows: Sequence[Row], *, weights: Weights = POLICY) -> list[NDArray[np.float32]]:
        """log π(target) for every target of each row, in nats: a list of [T] (or [T, K]) arrays."""
        check_rows(rows, max_length=self.max_length, vocabulary=self._vocabulary)
        self._check()
        self._check_targets(rows)
        if not rows:
            return []
        if weights == POLICY:
            return self._trainer.forward([scored(row) for row in rows]).wait()
        sampler = self._samplers.of(weights)
        texts = []
        for row in rows:
            if row.target_ids.ndim == 2 or (row.input_ids[1:] != row.target_ids[:-1]).any():
                raise CapabilityError(
                    f"{weights.name} weights score texts on a server, not other targets at their tokens: "
                    "score rows as Row.from_completion makes them, or take engine: local"
                )
            texts.append((*row.input_ids.tolist(), int(row.target_ids[-1])))
        under_way = [sampler.logprobs(ids) for ids in texts]
        return [np.asarray(request.wait(), np.float32) for request in under_way]

    # ── training ──────────────────────────────────────────────────────────────────────────────────

    def forward_backward(self, rows: Sequence[Row], loss: Loss) -> StepOutput:
        """Add the gradient of the loss, summed over rows, to what is there; see `Engine.forward_backward`.

        Raises:
            NonFiniteError: the loss is NaN or Inf. Nothing was added, unless the message says otherwise.
        """
        if not rows:
            return StepOutput(0.0, {})
        check_rows(rows, max_length=self.max_length, vocabulary=self._vocabulary)
        self._check()
        if takes_values(resolve_loss(loss, rows[0].fields)):
            raise no_value_head()
        self._check_targets(rows)
        counting = [row for row in rows if row.fields["weights"].any()]
        if not counting:
            return StepOutput(0.0, {})
        request = named(counting, loss) if self.behaviour.reduction == "sum" else None
        if request is not None:
            output = self._in_one_pass(counting, loss, request)
        else:
            output = self._by_its_gradient(counting, loss)
        self._rows += len(counting)
        return output

    def optim_step(self, params: AdamParams) -> StepOutput:
        """Clip, take one AdamW step, and clear the gradient.

        Raises:
            TrainingGuard: there is no gradient, because no row of nonzero weight was trained.
            CapabilityError: the server does not clip and `max_grad_norm` asks for it.
            NonFiniteError: the gradient is NaN or Inf; only `load` goes on from here.
            ServerError: nobody knows whether the step was taken; only `load` goes on from here.
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
            self._lost = f"the gradient's norm is {norms[0]}, so the server has spoiled the adapter"
            raise NonFiniteError(
                f"{self._lost}: load the last checkpoint. Look at the rows' weights and advantages, or lower "
                "the learning rate"
            )
        return StepOutput(0.0, {"grad_norm": norms[0]} if norms else {})

    def check_clipping(self, max_grad_norm: float) -> None:
        """Refuse to clip where the server does not.

        Raises:
            CapabilityError: naming the setting.
        """
        if not self.behaviour.clips and max_grad_norm < NO_CLIP:
            raise CapabilityError(
                f"{self.service.name} ignores max_grad_norm={max_grad_norm:g}: set optim.max_grad_norm to "
                f"{NO_CLIP:g} to train without clipping, or take a server that clips"
            )

    # ── copies of the weights ─────────────────────────────────────────────────────────────────────

    def snapshot(self, name: str | None = None) -> Weights:
        """Keep the adapter as it is now, on the server, for as long as the handle lives.

        Raises:
            CapabilityError: a named one, or the server's snapshots change with the adapter.
        """
        if not self.behaviour.snapshots:
            raise CapabilityError(
                f"snapshots on {self.service.name} change when the adapter trains on: save a checkpoint "
                "instead, or take engine: local"
            )
        if name is not None:
            raise no_named_snapshots()
        self._check()
        return self._samplers.keep()

    def weights_hash(self) -> str:
        """A hash of the bits of a fixed text's log-probs: the weights themselves stay on the server.

        Different hashes mean different weights, as far as the server computes equally twice; equal ones mean
        that the log-probs of that text did not change in any bit.
        """
        self._check()
        [logprobs_T] = self._trainer.forward([scored(self._probe_row)]).wait()
        return hashlib.sha256(logprobs_T.astype("<f4").tobytes()).hexdigest()

    def model_hash(self) -> str:
        """A hash of the base model's name and the adapter's rank and seed: what a server keeps behind a name
        cannot be seen from here.
        """
        named_so = json.dumps([self.base_model, self.rank, self.seed])
        return hashlib.sha256(named_so.encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Have the server keep weights and optimizer, and write down where, into an existing directory.

        A gradient that waits for `optim_step` is not saved. What the server keeps is not deleted when the
        directory is.
        """
        self._check()
        kept = self._trainer.save(f"didact-{uuid.uuid4().hex[:12]}").wait()
        record = {"path": kept, "base_model": self.base_model, "rank": self.rank, "server": self.service.name}
        (Path(path) / FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    def load(self, path: Path) -> None:
        """Make a new adapter of what `save` kept, in place of this one; clears the gradient and every doubt.

        Raises:
            CheckpointError: the file is torn or another model's; nothing was changed.
            ServerError: the server no longer has it; only another `load` goes on from here.
        """
        file = Path(path) / FILE
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
        self._trainer.close()  # first, so that the new one takes its place, which holds no gradient
        self._trainer, self._lost = self.service.restore(kept), None
        self._forget_step()

    def save_pretrained(self, path: Path) -> None:
        """Write the tokenizer, the adapter where the server hands it out, and where the server keeps it."""
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(path)
        self.save(path)
        name = f"final-{uuid.uuid4().hex[:12]}"
        if not self._trainer.download(path, name):
            (path / "README.txt").write_text(
                f"The adapter is on the server, as {FILE} says; this tinker SDK cannot fetch it.\n",
                encoding="utf-8",
            )

    def close(self) -> None:
        """Let the server forget the adapter. Checkpoints stay."""
        self._trainer.close()

    # ── inside ────────────────────────────────────────────────────────────────────────────────────

    def _in_one_pass(self, rows: Sequence[Row], loss: Loss, request: Request) -> StepOutput:
        sent = self._update(lambda: self._trainer.forward_backward(*request))
        logprobs = self._update(sent.wait)
        try:
            return differentiate(rows, logprobs, loss, sent=True).output
        except NonFiniteError:
            self._lost = "a loss that is not finite was added to the gradient"
            raise

    def _by_its_gradient(self, rows: Sequence[Row], loss: Loss) -> StepOutput:
        logprobs = self._trainer.forward([scored(row) for row in rows]).wait()
        found = differentiate(rows, logprobs, loss)

        def make(rows_of_step: int | None) -> Request:
            return linear(rows, found.gradients, logprobs, rows_of_step=rows_of_step)

        if self.behaviour.reduction == "sum":
            self._sent.append(self._update(lambda: self._trainer.forward_backward(*make(None))))
        else:
            self._waiting.append(make)
        return found.output

    def _update(self, call: Callable[[], Any]) -> Any:
        """Do something that changes the adapter; where it fails, nobody knows how far it came."""
        try:
            return call()
        except ServerError as error:
            self._lost = str(error)
            raise ServerError(
                f"{error}. Whether the update was done is not known, so it is not tried again: go on from "
                "the last checkpoint with `didact train --resume RUN`"
            ) from error

    def _check(self) -> None:
        if self._lost is not None:
            raise ServerError(
                f"the adapter's state is not known since {self._lost}: go on from the last checkpoint with "
                "`didact train --resume RUN`"
            )

    def _check_targets(self, rows: Sequence[Row]) -> None:
        able = self.capabilities.soft_targets
        for row in rows:
            if row.target_ids.ndim == 2 and row.target_ids.shape[1] > able:
                raise CapabilityError(
                    f"rows have {row.target_ids.shape[1]} soft targets a token, and {self.service.name} "
                    f"takes {able or 'none'}: take a method with hard targets, or engine: local"
                )

    def _forget_step(self) -> None:
        self._waiting, self._sent, self._rows = [], [], 0
        self._samplers.forget_live()
