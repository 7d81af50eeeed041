"""VLLMEngine: a local engine trains a LoRA adapter, a vLLM server samples from it.

Sampling from the current weights goes to the server; log-probs, values, gradients, optimizer steps, snapshots
and checkpoints stay with the trainer, and so does sampling from the reference and from snapshots. Before it
samples, the engine publishes an adapter that has changed (`adapters.py`); every request names the version of
the adapter, and a reply of another one is discarded with an error.

A sample's log-probs are the server's, before temperature, top-p and top-k (vLLM's default `--logprobs-mode
raw_logprobs`). After each publication the trainer scores the first samples as well, and a mean gap above
`tolerance` ends the run. `logprobs="trainer"` scores all samples there instead.

Full fine-tuning is refused: vLLM 0.32 can reload a checkpoint, but on a CPU a tied output layer keeps
its old weights (docs/scaling.md). One training process only.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

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
    TopLogprobs,
    Weights,
)
from didact.engines.local.sampling import check_prompts
from didact.engines.vllm.adapters import AdapterPublisher, served_models
from didact.engines.vllm.completion import CompletionRequest, check_gap
from didact.errors import CapabilityError, UsageError, did_you_mean
from didact.llm.api_keys import check_url, optional_key
from didact.llm.http import ClientError, HttpServer, HttpSession, RetryPolicy, gather_bounded
from didact.rng import derive_seed
from didact.types import Ids, Row

if TYPE_CHECKING:
    from didact.engines.local import LocalEngine

LogprobsFrom: TypeAlias = Literal["server", "trainer"]
CHECKED = 4
"""Samples that the trainer scores after each publication."""
DEFAULT_URL = "http://127.0.0.1:8000"
"""vLLM's default address."""
KEY_VARIABLE = "VLLM_API_KEY"


def vllm_server(
    base_url: str = DEFAULT_URL,
    *,
    api_key_env: str = KEY_VARIABLE,
    timeout: float = 600.0,
    retries: RetryPolicy | None = None,
) -> HttpServer:
    """A vLLM server.

    Args:
        base_url: Such as "http://127.0.0.1:8000"; a trailing "/v1" is removed.
        api_key_env: Environment variable of the server's `--api-key`. The key is sent if the variable is set,
            over https or to this machine only.
        timeout: Seconds for one attempt of a request, > 0.
        retries: The retry policy; None for 4 retries.

    Raises:
        UsageError: the URL is malformed or may hold a secret, or a value is out of range.
    """
    url = base_url.strip().rstrip("/").removesuffix("/v1")
    check_url(url)
    return HttpServer(
        url,
        key=optional_key(url, api_key_env),
        key_variable=api_key_env,
        timeout=timeout,
        retries=retries or RetryPolicy(max_retries=4),
    )


def connect(
    trainer: LocalEngine,
    *,
    base_url: str | None = None,
    model: str | None = None,
    api_key_env: str | None = None,
    timeout: float = 600.0,
    shared_dir: str | Path | None = None,
) -> VLLMEngine:
    """An engine that trains here and samples on a vLLM server, after a first request to it.

    Args:
        trainer: Holds the weights; it must train an adapter.
        base_url: The server's address; None for `DEFAULT_URL`.
        model: The served base model's name; None if there is only one.
        api_key_env: Environment variable of the server's key; None for `KEY_VARIABLE`.
        timeout: Seconds for one attempt of a request.
        shared_dir: Directory for adapters; the server must see it under the same path.

    Raises:
        CapabilityError: all weights are trained.
        UsageError: there is no directory, or the server does not serve the model.
        ServerError: the server cannot be reached.
    """
    _require_adapter(trainer)
    if shared_dir is None:
        raise UsageError(
            "engine: vllm sends the adapter as files: set engine.settings.shared_dir to a directory that the "
            "server sees under the same path, as /dev/shm/didact"
        )
    server = vllm_server(base_url or DEFAULT_URL, api_key_env=api_key_env or KEY_VARIABLE, timeout=timeout)
    engine = VLLMEngine(trainer, server, AdapterPublisher(shared_dir), model=model)
    engine.connect()
    return engine


class VLLMEngine:
    """An engine that samples on a vLLM server; see the top of this file.

    Equal arguments send equal seeds, but vLLM repeats itself bit by bit only with VLLM_BATCH_INVARIANT=1.

    Args:
        trainer: Trains an adapter. Its weights must change through this engine only.
        server: The server.
        publisher: Sends adapters to the server.
        model: The served base model's name; None if there is only one.
        logprobs: Whose log-probs a sample has.
        tolerance: Largest mean gap between the log-probs of server and trainer, in nats per token, > 0.
        concurrency: Prompts in flight at a time, ≥ 1.

    Raises:
        CapabilityError: the trainer trains all weights, or several processes train.
        UsageError: a value out of range.
    """

    def __init__(
        self,
        trainer: Engine,
        server: HttpServer,
        publisher: AdapterPublisher,
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
        _require_adapter(trainer)
        self.trainer, self.server, self.publisher = trainer, server, publisher
        self.capabilities = trainer.capabilities
        self.logprobs_from, self.tolerance, self.concurrency = logprobs, tolerance, concurrency
        self._base_model = model
        self._connected = False
        self._server_length: int | None = None
        self._run = secrets.token_hex(4)
        """Distinguishes the adapters of runs on one server."""
        self._version = 0
        """Incremented whenever the weights may have changed."""
        self._published = 0
        """Number of adapters sent."""
        self._served: tuple[int, str] | None = None
        """The version on the server and its adapter's name."""

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
        """The smaller context length of trainer and, once connected, server."""
        known = [n for n in (self.trainer.max_length, self._server_length) if n is not None]
        return min(known, default=None)

    def connect(self) -> None:
        """Find the base model on the server; `sample` connects if needed.

        Raises:
            UsageError: the server does not serve the model.
            ServerError: the server cannot be reached.
        """
        served = served_models(self.server)
        # A loaded adapter has its base model as `parent`.
        base = [name for name, card in served.items() if not card.get("parent")]
        name = self._base_model or (base[0] if len(base) == 1 else None)
        if name is None or name not in served:
            hint = "name one as its model" if name is None else did_you_mean(name, served)
            raise UsageError(f"{self.server.base_url} serves {', '.join(base) or 'nothing'}: {hint}")
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
        """n completions for each prompt: from the server for the current weights, else from the trainer.

        Raises:
            UsageError: a prompt that does not fit, or a request that the server rejects.
            ServerError: the server failed.
            StaleWeightsError: the samples did not come from the current weights.
        """
        if weights != POLICY:
            return self.trainer.sample(prompts, n, params, seed=seed, weights=weights)
        if not self._connected:
            self.connect()
        check_prompts(prompts, n, params, max_length=self.max_length, vocabulary=len(self.tokenizer))
        changed = self._served is None or self._served[0] != self._version
        adapter = self._publish() if changed or self._served is None else self._served[1]
        end_ids = frozenset(self.end_ids)
        requests = [
            CompletionRequest(tuple(prompt), n, params, _seed(seed, i), adapter, end_ids)
            for i, prompt in enumerate(prompts)
        ]
        samples = self.server.run(lambda session: self._complete(session, requests))
        if self.logprobs_from == "trainer":
            return self._with_trainer_logprobs(prompts, samples)
        if changed:
            self._check_logprobs(prompts, samples)
        return samples

    def _publish(self) -> str:
        """Send the current adapter; its name on the server."""
        self._served = None
        self._published += 1
        name = f"didact-{self._run}-{self._published}"
        self.publisher.publish(self.server, self.trainer, name)
        self._served = self._version, name
        return name

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

        return await gather_bounded(map(one, requests), self.concurrency)

    def _check_logprobs(self, prompts: Sequence[Ids], samples: Sequence[Sequence[Sample]]) -> None:
        checked = [(prompt, own[0]) for prompt, own in zip(prompts, samples, strict=True)][:CHECKED]
        try:
            check_gap([s.logprobs for _, s in checked], self._score(checked), self.tolerance)
        except BaseException:
            self._served = None  # the next call publishes and checks again
            raise

    def _with_trainer_logprobs(
        self, prompts: Sequence[Ids], samples: list[list[Sample]]
    ) -> list[list[Sample]]:
        flat = [(prompt, s) for prompt, own in zip(prompts, samples, strict=True) for s in own]
        scored = iter(self._score(flat))
        return [[s._replace(logprobs=next(scored)) for s in own] for own in samples]

    def _score(self, sampled: Sequence[tuple[Ids, Sample]]) -> list[tuple[float, ...]]:
        rows = [Row.from_completion(prompt, s.ids) for prompt, s in sampled]
        found = self.trainer.logprobs(rows)
        return [tuple(lp[-len(s.ids) :].tolist()) for lp, (_, s) in zip(found, sampled, strict=True)]

    # ── the trainer's ─────────────────────────────────────────────────────────────────────────────

    def logprobs(self, rows: Sequence[Row], *, weights: Weights = POLICY) -> list[NDArray[np.float32]]:
        """The trainer's."""
        return self.trainer.logprobs(rows, weights=weights)

    def top_logprobs(self, rows: Sequence[Row], k: int, *, weights: Weights = POLICY) -> list[TopLogprobs]:
        """The trainer's."""
        return self.trainer.top_logprobs(rows, k, weights=weights)

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
        """The trainer's; the next sample comes from the new weights."""
        self._version += 1  # first, in case the step fails half-way
        return self.trainer.optim_step(params)

    def snapshot(self, name: str | None = None) -> Weights:
        """The trainer's."""
        return self.trainer.snapshot(name)

    def update_snapshot(self, name: str, decay: float) -> None:
        """The trainer's."""
        self.trainer.update_snapshot(name, decay)

    def drop_snapshot(self, name: str) -> None:
        """The trainer's."""
        self.trainer.drop_snapshot(name)

    @property
    def snapshot_names(self) -> Set[str]:
        """The trainer's."""
        return self.trainer.snapshot_names

    def weights_hash(self) -> str:
        """The trainer's."""
        return self.trainer.weights_hash()

    def model_hash(self) -> str:
        """The trainer's."""
        return self.trainer.model_hash()

    def save(self, path: Path) -> None:
        """The trainer's; the server holds no state of a run."""
        self.trainer.save(path)

    def load(self, path: Path) -> None:
        """The trainer's; the next sample comes from the loaded weights."""
        self._version += 1
        self.trainer.load(path)

    def save_pretrained(self, path: Path) -> None:
        """The trainer's."""
        self.trainer.save_pretrained(path)


def _require_adapter(trainer: Engine) -> None:
    if trainer.capabilities.full_finetune:
        raise CapabilityError(
            "engine: vllm samples from an adapter, and all weights are trained: set model.lora, as "
            "{rank: 16}, or take engine: local"
        )


def _seed(seed: int | Sequence[int], i: int) -> int:
    """A prompt's own seed, hashed so that seed + j of its completions does not meet another prompt's."""
    own, place = (seed, i) if isinstance(seed, int) else (seed[i], 0)
    return derive_seed(own, "sample", place) >> 1  # leaves room below 2⁶³ for n
