"""One engine on several processes, started by `accelerate launch` or torchrun.

    process 0                                    processes 1, 2, …
    the run: loop, judges, run directory
    DistributedEngine.sample(prompts, …)
      ├─ a share of the prompts ─────────────▶  serve(): Part.sample(share)
      ├─ Part.sample(its own share)                │
      └─ all samples, in order ◀───────────────────┘

Process 0 alone is the run. The others serve its engine calls, one after the other, until it ends; so the
loop, the methods, the judges and the run directory know nothing of processes, nothing is asked or
written twice, and no process can take another turn than the rest. The price is that rows and samples pass
through process 0, a few MB a step, beside the gradients that pass between all.

What a call returns does not depend on the number of processes, up to rounding: rows are dealt out and
losses and gradients summed (`part.py`), and each prompt keeps the random stream that it has in one process.

When something goes wrong:

* An error on purpose, as a loss that is NaN, is raised in process 0, whoever found it; all processes have
  undone their part and the engine can go on.
* A process that dies ends the run with ProcessLost: its connections close, at once on one machine. One that
  hangs does so after `processes.TIMEOUT`. Resuming from the checkpoint is up to whoever launched it.
* Ctrl-C and SIGTERM count in process 0, which the launcher tells too. There they wait for the end of
  the engine call in work; then the run saves and ends with code 75 as ever, and the others end with it.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from didact.engines.base import (
    POLICY,
    AdamParams,
    Capabilities,
    Loss,
    Sample,
    SamplingParams,
    StepOutput,
    Weights,
)
from didact.engines.local import weights as weight_sets
from didact.engines.local.batching import check_rows
from didact.engines.local.crew import crew, serve
from didact.engines.local.part import Part
from didact.engines.local.processes import Message, join
from didact.engines.local.sampling import check_prompts, streams
from didact.engines.local.sharding import launcher_settings
from didact.engines.local.shares import (
    deal,
    gathered,
    loss_to_json,
    pack,
    rows_to_arrays,
    samples_from,
    settings_to_json,
    unpack,
)
from didact.errors import TrainingGuard
from didact.types import Ids, Row

OF_THE_WHOLE = ("grad_norm", "cosine")
"""Metrics that every process reports alike; the others are sums over its own rows."""


class DistributedEngine:
    """An engine on all processes of the run, for process 0. Each call keeps `engines.base.Engine`'s contract.

    Made by `from_pretrained`. Its `tokens_per_batch` is for each process.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._part: Part = crew().parts[number]
        self._dropped: list[str] = []

    @classmethod
    def from_pretrained(cls, path_or_id: str | Path, **settings: Any) -> DistributedEngine:
        """Load a model on all processes. In those that do not lead, serve instead and never return.

        Args:
            path_or_id: A directory that every process can read, or a hub id.
            **settings: As for `LocalEngine.from_pretrained`. With device "auto" or "cuda" each process takes
                the GPU of its place.

        Raises:
            UsageError, DataError: as there.
            SystemExit: in other processes than the first, once the run has ended.
        """
        if join().rank:
            sys.exit(serve())
        number = crew().new_number()
        header: dict[str, Any] = {"task": "make", "engine": number, "path": str(path_or_id)}
        header |= {"settings": settings_to_json(settings), "launcher": launcher_settings()}
        crew().call([Message(header)] * crew().processes.size)
        return cls(number)

    @property
    def capabilities(self) -> Capabilities:
        """Those of a LocalEngine; a loss function has to be importable by the other processes."""
        return self._part.capabilities

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._part.tokenizer

    @property
    def end_ids(self) -> Set[int]:
        """Ids that end a completion."""
        return self._part.end_ids

    @property
    def max_length(self) -> int | None:
        """Tokens that the model takes."""
        return self._part.max_length

    @property
    def device(self) -> torch.device:
        """Where process 0 computes."""
        return self._part.device

    @property
    def dtype(self) -> str:
        """What is computed in."""
        return self._part.dtype

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
        """n completions for each prompt, the prompts dealt out; the samples are those of one process."""
        part, drawn = self._part, streams(seed, len(prompts))
        check_prompts(prompts, n, params, max_length=part.max_length, vocabulary=part.vocabulary)
        if not prompts:
            return []
        hands = deal([len(prompt) for prompt in prompts], crew().processes.size)
        common = {"n": n, "params": asdict(params), "weights": weights.name}
        messages = []
        for hand in hands:
            ids = pack([np.asarray(prompts[i], np.int64) for i in hand], np.zeros(0, np.int64))
            messages.append(self._task("sample", ids, streams=[drawn[i] for i in hand], **common))
        answers = crew().call(messages)
        return gathered(hands, [samples_from(answer, n) for answer in answers])

    def logprobs(self, rows: Sequence[Row], *, weights: Weights = POLICY) -> list[NDArray[np.float32]]:
        """log π(target) for every target of each row, in nats: a list of [T] (or [T, K]) arrays."""
        return self._score("logprobs", rows, weights=weights.name)

    def values(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """V of the prefix that each target of nonzero weight continues, else 0: a list of [T] arrays."""
        return self._score("values", rows)

    def full_kl(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """KL(π ‖ π_reference) in nats over the vocabulary at each target of nonzero weight, else 0."""
        return self._score("full_kl", rows)

    # ── training ──────────────────────────────────────────────────────────────────────────────────

    def forward_backward(self, rows: Sequence[Row], loss: Loss) -> StepOutput:
        """Add the gradient of the loss, summed over rows, to what is there; the rows are dealt out.

        A custom loss function has to be importable: it is sent by its name.
        """
        if not rows:
            return StepOutput(0.0, {})
        self._part.check_trainable(rows, loss)
        counting = [row for row in rows if row.fields["weights"].any()]
        if not counting:
            return StepOutput(0.0, {})
        _, messages = self._dealt("train", counting, loss=loss_to_json(loss))
        outputs = [StepOutput(**answer.header) for answer in crew().call(messages)]
        metrics: dict[str, float] = {}
        for name in dict.fromkeys(name for output in outputs for name in output.metrics):
            found = [output.metrics[name] for output in outputs if name in output.metrics]
            metrics[name] = found[0] if name in OF_THE_WHOLE else sum(found)
        last = {name: metrics.pop(name) for name in OF_THE_WHOLE if name in metrics}
        return StepOutput(sum(output.loss for output in outputs), metrics | last)

    def optim_step(self, params: AdamParams) -> StepOutput:
        """Clip by the norm over all processes, take one AdamW step, and clear the gradient.

        Raises:
            TrainingGuard: there is no gradient, or the processes no longer hold equal ones.
            NonFiniteError: the gradient is NaN or Inf; no weight was changed.
        """
        outputs = [StepOutput(**answer.header) for answer in self._alike("optim_step", params=asdict(params))]
        if any(output != outputs[0] for output in outputs):
            raise TrainingGuard(
                f"the processes stepped on different gradients ({[o.metrics for o in outputs]}): their "
                "weights have drifted apart. Go on from the newest checkpoint, with equal devices for all"
            )
        return outputs[0]

    # ── copies of the weights ─────────────────────────────────────────────────────────────────────

    def snapshot(self) -> Weights:
        """Keep a copy of the trained weights as they are now, as long as the handle lives."""
        handle = Weights(self._alike("snapshot")[0].header["name"])
        weakref.finalize(handle, self._dropped.append, handle.name)
        return handle

    def weights_hash(self) -> str:
        """sha256 over the trained tensors, the same for any number of processes."""
        return self._hash(every=False)

    def model_hash(self) -> str:
        """sha256 over all tensors."""
        return self._hash(every=True)

    def save(self, path: Path) -> None:
        """Write weights and optimizer state for `load`, in the format of any number of processes."""
        self._save(path, pretrained=False)

    def load(self, path: Path) -> None:
        """Take up weights and optimizer state as they were saved, by whatever number of processes.

        Only process 0 reads the file.

        Raises:
            CheckpointError: the checkpoint is torn or another model's; nothing was changed.
        """
        found = weight_sets.read(Path(path), self._part.trained)
        self._part.found = found
        self._alike("load", layout=self._part.layout(found[1]))

    def save_pretrained(self, path: Path) -> None:
        """Write the model (or adapter) and tokenizer for plain transformers and peft."""
        self._save(path, pretrained=True)

    # ── inside ────────────────────────────────────────────────────────────────────────────────────

    def _task(self, task: str, arrays: Any = None, **header: Any) -> Message:
        return Message({"task": task, "engine": self._number, "dropped": [], **header}, arrays or {})

    def _alike(self, task: str, **header: Any) -> list[Message]:
        """The same for every process, and word of the snapshots that nobody uses any longer."""
        dropped = [self._dropped.pop() for _ in range(len(self._dropped))]
        return crew().call([self._task(task, **{**header, "dropped": dropped})] * crew().processes.size)

    def _dealt(self, task: str, rows: Sequence[Row], **header: Any) -> tuple[list[list[int]], list[Message]]:
        hands = deal([len(row) for row in rows], crew().processes.size)
        shares = [rows_to_arrays([rows[i] for i in hand], rows[0]) for hand in hands]
        return hands, [self._task(task, share, **header) for share in shares]

    def _score(self, what: str, rows: Sequence[Row], **header: Any) -> list[NDArray[np.float32]]:
        check_rows(rows, max_length=self._part.max_length, vocabulary=self._part.vocabulary)
        if not rows:
            return []
        hands, messages = self._dealt("score", rows, what=what, **header)
        return gathered(hands, [unpack(answer.arrays) for answer in crew().call(messages)])

    def _hash(self, *, every: bool) -> str:
        found: str = self._alike("hash", every=every)[0].header["hash"]
        return found

    def _save(self, path: Path, *, pretrained: bool) -> None:
        others = crew().processes.size - 1
        tasks = [self._task("save", path=to, pretrained=pretrained) for to in (str(path), None)]
        crew().call([tasks[0], *[tasks[1]] * others])
