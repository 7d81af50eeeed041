"""VLLMEngine: a LocalEngine trains, a vLLM server on the same node samples.

Everything but sampling from the trained weights is the trainer's: log-probs, values, gradients, steps,
copies, checkpoints. Before it samples from weights that have changed since the server got them, they are sent
(see transfer.py), so that a server is never behind; and every sample says what it came from, by the name of
the adapter or by a label on each token, so that one from other weights is thrown away with an error.

The log-probs of a sample are the server's, under the model itself: vLLM's `--logprobs-mode raw_logprobs`, its
default, before temperature, top-p and top-k. The first samples after each transfer are scored by the trainer
too, and a mean gap above a limit ends the run. `logprobs="trainer"` scores every sample there instead.

Samples from REFERENCE and from snapshots come from the trainer: the server holds the trained weights alone.

Tested against a scripted server, which runs a real model behind vLLM's endpoints. Not run on a GPU, nor
against vLLM itself, by the project. Written for vLLM 0.33.0. One training process: not under
`accelerate launch`.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence, Set
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from didact.engines.base import (
    POLICY,
    AdamParams,
    Engine,
    Loss,
    Sample,
    SamplingParams,
    StepOutput,
    Weights,
)
from didact.engines.local.sampling import check_prompts
from didact.engines.vllm.completion import Request, check_gap
from didact.engines.vllm.http import ClientError, Server, read_json
from didact.engines.vllm.transfer import Transfer, served_models
from didact.errors import CapabilityError, UsageError, did_you_mean
from didact.rng import derive_seed
from didact.types import Ids, Row

LogprobsFrom: TypeAlias = Literal["server", "trainer"]
CHECKED = 4
"""How many samples the trainer scores after each transfer."""


class VLLMEngine:
    """An engine that samples on a vLLM server. See the top of this file.

    Equal seeds are sent for equal arguments, but vLLM repeats itself bit by bit only where it is started with
    VLLM_BATCH_INVARIANT=1.

    Args:
        trainer: Where the weights live; this engine owns it from now on, as a step behind its back would go
            unnoticed.
        server: The server.
        transfer: How the weights get there: `LoraFiles` for an adapter, `Broadcast` for all weights.
        model: The served model's name; None takes the only one.
        logprobs: Whose log-probs a sample carries.
        tolerance: The largest mean gap between the server's log-probs and the trainer's, in nats a token.
        concurrency: Prompts in flight at a time, ≥ 1.

    Raises:
        CapabilityError: the trainer's weights cannot go this way.
        UsageError: a setting out of range.
    """

    def __init__(
        self,
        trainer: Engine,
        server: Server,
        transfer: Transfer,
        *,
        model: str | None = None,
        logprobs: LogprobsFrom = "server",
        tolerance: float = 0.1,
        concurrency: int = 64,
    ) -> None:
        if concurrency < 1 or not tolerance > 0:
            raise UsageError(
                f"concurrency must be at least 1 and tolerance above 0, not {concurrency} and {tolerance}"
            )
        if logprobs not in ("server", "trainer"):
            raise UsageError(f"logprobs={logprobs!r}: {did_you_mean(logprobs, ['server', 'trainer'])}")
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            raise CapabilityError(
                "vLLM samples for one training process: start without accelerate launch, or sample locally"
            )
        transfer.check(trainer)
        self.trainer, self.server, self.transfer = trainer, server, transfer
        self.capabilities = trainer.capabilities
        self.logprobs_from, self.tolerance, self.concurrency = logprobs, tolerance, concurrency
        self._base_model = model
        self._connected = False
        self._server_length: int | None = None
        self._run = secrets.token_hex(4)
        """Keeps this run's labels apart from another's on the same server."""
        self._version = 0
        """How often the trained weights may have changed."""
        self._sent = 0
        """How often weights were sent; each time has a label of its own."""
        self._served: tuple[int, str, str] | None = None
        """The version that the server has, its label, and the model to ask for."""

    @property
    def tokenizer(self) -> Any:
        """The trainer's."""
        return self.trainer.tokenizer

    @property
    def end_ids(self) -> Set[int]:
        """The trainer's."""
        return self.trainer.end_ids

    @property
    def max_length(self) -> int | None:
        """The smaller of the trainer's and, once it is connected, the server's."""
        known = [n for n in (self.trainer.max_length, self._server_length) if n is not None]
        return min(known, default=None)

    def connect(self) -> None:
        """Ask the server what it serves; `sample` does so too if nobody has.

        Raises:
            UsageError: it does not serve the model.
            ServerError: it cannot be reached.
        """
        served = served_models(self.server)
        # An adapter that is loaded names the model under it as its parent.
        base = [name for name, card in served.items() if not card.get("parent")]
        name = self._base_model or (base[0] if len(base) == 1 else None)
        if name is None or name not in served:
            asked = "name one as its model" if name is None else did_you_mean(name, served)
            raise UsageError(f"{self.server.base_url} serves {', '.join(base) or 'nothing'}: {asked}")
        length = served[name].get("max_model_len")
        self._base_model, self._connected = name, True
        self._server_length = length if isinstance(length, int) else None

    # ── sampling ──────────────────────────────────────────────────────────────────────────────────

    def sample(
        self,
        prompts: Sequence[Ids],
        n: int,
        params: SamplingParams,
        *,
        seed: int | Sequence[int],
        weights: Weights = POLICY,
    ) -> list[list[Sample]]:
        """n completions for each prompt: from the server for LIVE, else from the trainer.

        Raises:
            UsageError: a prompt that the model cannot take, or a server that refuses.
            ServerError: the server did not do its part.
            StaleWeightsError: the samples were not of the trained weights.
        """
        if weights != POLICY:
            return self.trainer.sample(prompts, n, params, seed=seed, weights=weights)
        self.server.take_up()  # an earlier call may have failed
        if not self._connected:
            self.connect()
        vocabulary = len(self.tokenizer)
        check_prompts(prompts, n, params, max_length=self.max_length, vocabulary=vocabulary)
        fresh = self._served is None or self._served[0] != self._version
        _, label, model = self._published()
        version = label if self.transfer.labels_tokens else None
        end_ids = frozenset(self.end_ids)
        requests = [
            Request(tuple(prompt), n, params, _seed(seed, i), model, version, end_ids)
            for i, prompt in enumerate(prompts)
        ]
        samples = self._asked(requests)
        if self.logprobs_from == "trainer":
            return self._rescored(prompts, samples)
        if fresh:
            self._check_logprobs(prompts, samples)
        return samples

    def _published(self) -> tuple[int, str, str]:
        """What the server has, after sending it what it has not."""
        if self._served is None or self._served[0] != self._version:
            self._served = None
            assert self._base_model is not None, "connect comes first"
            self._sent += 1
            label = f"didact-{self._run}-{self._sent}"
            model = self.transfer.publish(self.server, self.trainer, label, self._base_model)
            self._served = self._version, label, model
        return self._served

    def _asked(self, requests: Sequence[Request]) -> list[list[Sample]]:
        pool = ThreadPoolExecutor(min(self.concurrency, max(1, len(requests))), "didact-vllm")
        try:
            waiting = [pool.submit(self._answer, request) for request in requests]
            for done in as_completed(waiting):
                done.result()  # the first that fails ends all
            return [done.result() for done in waiting]
        except BaseException:
            self.server.give_up()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _answer(self, request: Request) -> list[Sample]:
        try:
            return self.server.ask(
                "POST", "/v1/completions", request.body(), lambda text: request.read(read_json(text))
            )
        except ClientError as refusal:
            if refusal.status != 404:
                raise
            raise UsageError(
                f"{refusal}. The server does not serve {request.model!r}: was it restarted? Resume the run, "
                "which sends the weights again"
            ) from refusal

    def _check_logprobs(self, prompts: Sequence[Ids], samples: Sequence[Sequence[Sample]]) -> None:
        checked = [(prompt, own[0]) for prompt, own in zip(prompts, samples, strict=True)][:CHECKED]
        try:
            check_gap([s.logprobs for _, s in checked], self._scored(checked), self.tolerance)
        except BaseException:
            self._served = None  # so that a later call does not pass for checked
            raise

    def _rescored(self, prompts: Sequence[Ids], samples: list[list[Sample]]) -> list[list[Sample]]:
        flat = [(prompt, s) for prompt, own in zip(prompts, samples, strict=True) for s in own]
        scored = iter(self._scored(flat))
        return [[s._replace(logprobs=next(scored)) for s in own] for own in samples]

    def _scored(self, sampled: Sequence[tuple[Ids, Sample]]) -> list[tuple[float, ...]]:
        rows = [Row.from_completion(prompt, s.ids) for prompt, s in sampled]
        found = self.trainer.logprobs(rows)
        return [tuple(lp[-len(s.ids) :].tolist()) for lp, (_, s) in zip(found, sampled, strict=True)]

    # ── the trainer's ─────────────────────────────────────────────────────────────────────────────

    def logprobs(self, rows: Sequence[Row], *, weights: Weights = POLICY) -> list[NDArray[np.float32]]:
        """The trainer's."""
        return self.trainer.logprobs(rows, weights=weights)

    def values(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """The trainer's."""
        return self.trainer.values(rows)

    def full_kl(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """The trainer's."""
        return self.trainer.full_kl(rows)

    def forward_backward(self, rows: Sequence[Row], loss: Loss) -> StepOutput:
        """The trainer's."""
        return self.trainer.forward_backward(rows, loss)

    def optim_step(self, params: AdamParams) -> StepOutput:
        """The trainer's; the next sample is of the new weights."""
        self._version += 1  # before it, in case that it fails half-way
        return self.trainer.optim_step(params)

    def snapshot(self) -> Weights:
        """The trainer's."""
        return self.trainer.snapshot()

    def weights_hash(self) -> str:
        """The trainer's."""
        return self.trainer.weights_hash()

    def model_hash(self) -> str:
        """The trainer's."""
        return self.trainer.model_hash()

    def save(self, path: Path) -> None:
        """The trainer's; a server needs no saving, as it is sent everything."""
        self.trainer.save(path)

    def load(self, path: Path) -> None:
        """The trainer's; the next sample is of the weights that were loaded."""
        self._version += 1
        self.trainer.load(path)

    def save_pretrained(self, path: Path) -> None:
        """The trainer's."""
        self.trainer.save_pretrained(path)


def _seed(seed: int | Sequence[int], i: int) -> int:
    """A prompt's own seed. vLLM gives sample j of n the seed plus j, so that these must not be neighbours."""
    own, place = (seed, i) if isinstance(seed, int) else (seed[i], 0)
    return derive_seed(own, "sample", place) >> 1  # room below 2⁶³ for n
