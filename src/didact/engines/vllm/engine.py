"""VLLMEngine: a local engine trains a LoRA adapter, a vLLM server samples from it.

Sampling from the current weights goes to the server; everything else stays here, sampling from the reference
and from snapshots too. Before it samples, the engine publishes an adapter that has changed; every request
names the version of the adapter, and a reply of another one is discarded with an error.

A sample's log-probs are the server's, before temperature, top-p and top-k (vLLM's default `--logprobs-mode
raw_logprobs`). After each publication the first samples are scored here as well, and a mean gap above
`tolerance` ends the run. `logprobs="trainer"` scores all samples here instead.

Full fine-tuning is refused: vLLM 0.32 can reload a checkpoint, but on a CPU a tied output layer keeps
its old weights (docs/scaling.md). One training process only.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from didact.distributed import is_launched
from didact.engines.base import POLICY, AdamParams, Sample, SamplingParams, StepOutput, Weights, rescored
from didact.engines.local import LocalEngine
from didact.engines.local.sampling import Streams
from didact.engines.vllm.server import (
    CompletionRequest,
    check_gap,
    load_adapter,
    served_models,
    unload_adapter,
)
from didact.errors import CapabilityError, UsageError, did_you_mean
from didact.llm.http import ClientError, HttpServer, HttpSession, gather_bounded
from didact.rng import derive_seed
from didact.types import Ids

LogprobsFrom: TypeAlias = Literal["server", "trainer"]
CHECKED = 4
"""Samples that are scored here after each publication."""
CONCURRENCY = 64
"""Prompts in flight at a time."""


class VLLMEngine(LocalEngine):
    """A LocalEngine that samples on a vLLM server; see the top of this file.

    Equal arguments send equal seeds, but vLLM repeats itself bit by bit only with VLLM_BATCH_INVARIANT=1.

    Args:
        *args: As for LocalEngine; `lora` is needed.
        shared_dir: Where adapters are written; the server must see it under the same path. Those no longer
            served are deleted; the last one stays, there and on the server.
        served_model: The served base model's name; None if there is only one.
        logprobs: Whose log-probs a sample has.
        tolerance: Largest mean gap between the log-probs of server and trainer, in nats per token, > 0.
        **settings: As for LocalEngine.

    Raises:
        CapabilityError: all weights are trained, or several processes train.
        UsageError: a value out of range, or the server does not serve the model.
        ServerError: the server cannot be reached.
    """

    def __init__(
        self,
        *args: Any,
        server: HttpServer,
        shared_dir: str | Path,
        served_model: str | None = None,
        logprobs: LogprobsFrom = "server",
        tolerance: float = 0.1,
        **settings: Any,
    ) -> None:
        if not tolerance > 0:
            raise UsageError(f"tolerance must be above 0, not {tolerance}")
        if logprobs not in ("server", "trainer"):
            raise UsageError(f"logprobs={logprobs!r}: {did_you_mean(logprobs, ['server', 'trainer'])}")
        if is_launched():
            raise CapabilityError(
                "vLLM samples for one training process: start without accelerate launch, or sample locally"
            )
        super().__init__(*args, **settings)
        if self.capabilities.full_finetune:
            raise CapabilityError(
                "engine: vllm samples from an adapter, and all weights are trained: set model.lora, as "
                "{rank: 16}, or take engine: local"
            )
        if self._on_merged:
            raise CapabilityError(
                "engine: vllm serves the base model, and this adapter would be trained on another one: merge "
                "that into a folder, with LocalEngine.from_pretrained(ADAPTER).save_pretrained(FOLDER), and "
                "serve and train on the folder"
            )
        self.server, self.shared_dir = server, Path(shared_dir).absolute()
        self.logprobs_from, self.tolerance = logprobs, tolerance
        length = self._base_card(served_model).get("max_model_len")
        if isinstance(length, int):
            self.max_length = length if self.max_length is None else min(length, self.max_length)
        self._run = secrets.token_hex(4)
        """Distinguishes the adapters of runs on one server."""
        self._version = 0
        """Incremented whenever the weights may have changed."""
        self._published = 0
        """Number of adapters sent."""
        self._served: Path | None = None
        """The adapter on the server."""
        self._served_version: int | None = None
        """Its version; None if it has to be sent again."""

    def _base_card(self, name: str | None) -> dict[str, Any]:
        """The server's entry for the base model."""
        served = served_models(self.server)
        # A loaded adapter has its base model as `parent`.
        base = [name for name, card in served.items() if not card.get("parent")]
        name = name or (base[0] if len(base) == 1 else None)
        if name is None or name not in served:
            hint = "name one as its model" if name is None else did_you_mean(name, served)
            raise UsageError(f"{self.server.base_url} serves {', '.join(base) or 'nothing'}: {hint}")
        found: dict[str, Any] = served[name]
        return found

    def _sample(
        self, prompts: Sequence[Ids], n: int, params: SamplingParams, drawn: Streams, weights: Weights
    ) -> list[list[Sample]]:
        """Samples of the current weights from the server, others as LocalEngine.

        Raises:
            UsageError: the server rejects a request.
            ServerError: the server failed.
            StaleWeightsError: the samples did not come from the current weights.
        """
        if weights != POLICY:
            return super()._sample(prompts, n, params, drawn, weights)
        changed = self._served_version != self._version
        adapter = self._publish() if changed or self._served is None else self._served
        end_ids = frozenset(self.end_ids)
        requests = [
            CompletionRequest(tuple(prompt), n, params, _seed(*stream), adapter.name, end_ids)
            for prompt, stream in zip(prompts, drawn, strict=True)
        ]
        samples = self.server.run(lambda session: self._complete(session, requests))
        if self.logprobs_from == "trainer":
            return rescored(self, prompts, samples)
        if changed:
            first = [[own[0]] for own in samples[:CHECKED]]
            try:
                check_gap(first, rescored(self, prompts[:CHECKED], first), self.tolerance)
            except BaseException:
                self._served_version = None  # the next call publishes and checks again
                raise
        return samples

    def _publish(self) -> Path:
        """Load the current adapter into the server under a new name, and unload the previous one.

        Raises:
            UsageError: the directory cannot be written, or the server does not load adapters.
        """
        self._served_version = None
        self._published += 1
        adapter = self.shared_dir / f"didact-{self._run}-{self._published}"
        try:
            adapter.mkdir(parents=True)
            self.save_pretrained(adapter)
        except OSError as error:
            raise UsageError(f"the adapter cannot be written into {adapter}: {error}") from error
        try:
            load_adapter(self.server, adapter)
        except BaseException:
            shutil.rmtree(adapter, ignore_errors=True)
            raise
        if self._served is not None:
            unload_adapter(self.server, self._served)
        self._served, self._served_version = adapter, self._version
        return adapter

    async def _complete(
        self, session: HttpSession, requests: Sequence[CompletionRequest]
    ) -> list[list[Sample]]:
        async def one(request: CompletionRequest) -> list[Sample]:
            try:
                found: list[Sample] = await session.request(
                    "POST", "/v1/completions", request.body(), parse=request.parse
                )
            except ClientError as error:
                if error.status != 404:
                    raise
                raise UsageError(
                    f"{error}. The server does not serve {request.model!r}: was it restarted? Resume the "
                    "run, which sends the adapter again"
                ) from error
            return found

        return await gather_bounded(map(one, requests), CONCURRENCY)

    def optim_step(self, params: AdamParams) -> StepOutput:
        self._version += 1  # first, in case the step fails half-way
        return super().optim_step(params)

    def load(self, path: Path) -> None:
        self._version += 1
        super().load(path)


def _seed(seed: int, place: int) -> int:
    """A prompt's own seed, hashed so that seed + j of its completions does not meet another prompt's."""
    return derive_seed(seed, "sample", place) >> 1  # leaves room below 2⁶³ for n
