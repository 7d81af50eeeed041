"""The `tinker` SDK in numpy arrays; the only module that imports it. The tests replace it by a fake server.

The SDK numbers the requests of an adapter, sends them in that order, and repeats a request under its number
after a lost connection. Requests are submitted at once and waited for later; those of one adapter are
executed in the order of submission. Differences between SDK 0.22 and 0.38 that are handled here:

* `optim_step` takes `adam_params`, since 0.38 `optim_params` (passed by position);
* older AdamParams have no `grad_clip_norm`;
* arrays of sequences and outputs are lists or numpy arrays;
* `create_sampling_client` and `create_lora_training_client` return the client or, since 0.38, a future that
  behaves like it;
* since 0.38 there is no `get_checkpoint_archive_url…`, so adapters cannot be downloaded.

Shapes: T targets of a row, K soft targets per token.
"""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import httpx2
import numpy as np
from numpy.typing import NDArray

from didact.engines.base import AdamParams, Sample, SamplingParams
from didact.errors import DidactError, UsageError, install_command
from didact.llm.api_keys import is_loopback
from didact.types import Ids

T = TypeVar("T")
Floats: TypeAlias = NDArray[np.float32]
SKYRL = "Tinker API Mock"
"""The title in SkyRL's OpenAPI description, whatever its release."""
PLACEHOLDER_KEY = "tml-none"
"""Sent to servers that need no key, because the SDK requires one of this form."""


class TinkerError(DidactError):
    """The server failed, rejected a request or timed out. The run can be resumed from its checkpoint."""

    exit_code = 75


@dataclass(frozen=True)
class Datum:
    """A row on the wire: `tokens[t]` predicts `inputs["target_tokens"][t]`.

    Inputs: "target_tokens" ([T] or [T, K]) and, depending on the loss, "weights", "advantages", "logprobs".
    """

    tokens: NDArray[np.int64]
    inputs: Mapping[str, NDArray[Any]]


@dataclass
class Pending(Generic[T]):
    """A submitted request: an SDK future with a timeout in seconds, and how its result is read."""

    future: Any
    what: str
    timeout: float
    read: Callable[[Any], T]

    def wait(self) -> T:
        """The result.

        Raises:
            TinkerError: there is none; the server may have executed the request or not.
        """
        try:
            return self.read(self.future.result(timeout=self.timeout))
        except DidactError:
            raise  # an unusable answer, or a signal while waiting
        except TimeoutError:
            raise TinkerError(
                f"the server did not answer {self.what} within {self.timeout:g} s: look at its log, or raise "
                "engine.settings.timeout"
            ) from None
        except Exception as error:
            raise TinkerError(f"the server failed at {self.what}: {_short(error)}") from error


class _Client:
    """A client of the SDK; `timeout` is in seconds."""

    def __init__(self, client: Any, timeout: float) -> None:
        self.client, self.timeout = client, timeout

    def _call(self, method: str, *args: Any, **named: Any) -> Any:
        """Call a method of the SDK's client, which submits a request or makes another client."""
        try:
            return getattr(self.client, method)(*args, **named)
        except DidactError:
            raise
        except Exception as error:
            called = " ".join([method, *(a for a in args if isinstance(a, str))])
            raise TinkerError(f"the server failed at {called}: {_short(error)}") from error

    def _send(self, method: str, *args: Any, read: Callable[[Any], T], **named: Any) -> Pending[T]:
        return Pending(self._call(method, *args, **named), method, self.timeout, read)


class TinkerSampler(_Client):
    """Frozen weights that can sample and score."""

    def sample(
        self, prompt: Ids, n: int, params: SamplingParams, *, seed: int, end_ids: Sequence[int]
    ) -> Pending[list[Sample]]:
        """n completions that end at one of `end_ids`; stop strings are ignored."""
        import tinker

        asked = tinker.SamplingParams(
            max_tokens=params.max_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k or -1,
            seed=seed,
            stop=list(end_ids),
        )
        return self._send(
            "sample", prompt=_model_input(prompt), num_samples=n, sampling_params=asked, read=_read_samples
        )

    def logprobs(self, ids: Ids) -> Pending[list[float]]:
        """log π of each id except the first."""
        return self._send("compute_logprobs", _model_input(ids), read=lambda out: _after_first(out, len(ids)))


class TinkerTrainer(_Client):
    """An adapter on the server with its optimizer and accumulated gradient."""

    def __init__(self, service: TinkerService, client: Any) -> None:
        super().__init__(client, service.timeout)
        self.service = service
        self._names = itertools.count()
        self._gradients: list[Pending[list[Floats]]] = []
        """Backward passes since the last step."""

    def forward(self, data: Sequence[Datum]) -> Pending[list[Floats]]:
        """log π of each row's targets, [T] or [T, K]."""
        return self._send("forward", _data(data), "cross_entropy", read=lambda out: _read_logprobs(out, data))

    def forward_backward(
        self, data: Sequence[Datum], loss: str, settings: Mapping[str, float]
    ) -> Pending[list[Floats]]:
        """Accumulate a gradient; returns log π of the targets."""
        given = dict(settings) or None
        sent = self._send(
            "forward_backward", _data(data), loss, given, read=lambda out: _read_logprobs(out, data)
        )
        self._gradients.append(sent)
        return sent

    def optim_step(self, params: AdamParams) -> Pending[dict[str, float]]:
        """One AdamW step; returns the server's metrics."""
        if not self.service.pipelined:
            for sent in self._gradients:
                sent.wait()
        self._gradients = []
        return self._send("optim_step", _adam(params), read=lambda out: dict(out.metrics or {}))

    def save(self, name: str) -> Pending[str]:
        """Store weights and optimizer state on the server; returns their path."""
        return self._send("save_state", name, read=lambda out: str(out.path))

    def sampler(self) -> TinkerSampler:
        """A sampler of the current weights."""
        name = f"sampler-{next(self._names):06d}"
        path = self._send("save_weights_for_sampler", name, read=lambda out: out.path).wait()
        return TinkerSampler(self._call("create_sampling_client", path), self.timeout)

    def download(self, path: Path, name: str) -> bool:
        """Fetch the adapter into a directory; False if the server or the SDK does not support it.

        tar's data filter keeps the archive's members inside the directory.
        """
        rest = self.service.client.create_rest_client()
        if not hasattr(rest, "get_checkpoint_archive_url"):
            return False
        try:
            self.client.save_weights_for_sampler(name).result(timeout=self.timeout)
            reply = _get(self._archive(rest, name), self.timeout)
            packed = io.BytesIO(reply.raise_for_status().content)
            with tarfile.open(fileobj=packed) as archive:
                archive.extractall(path, filter="data")
        except Exception as error:
            raise TinkerError(
                f"the server keeps the adapter as {name!r} of {self.client.model_id} but sends no archive: "
                f"{_short(error)}"
            ) from error
        return True

    def _archive(self, rest: Any, name: str) -> str:
        """URL of an archive: under "sampler_weights/" in the protocol, under the bare name in SkyRL 0.4.0."""
        from tinker import APIStatusError

        ask, model = rest.get_checkpoint_archive_url, self.client.model_id
        try:
            return str(ask(model, f"sampler_weights/{name}").result(timeout=self.timeout).url)
        except APIStatusError as error:
            if error.status_code not in (404, 405):
                raise
        return str(ask(model, name).result(timeout=self.timeout).url)

    def close(self) -> None:
        """Unload the adapter. Failures are ignored.

        SkyRL 0.4.0 gives an accumulated gradient to the next adapter in the same slot; a step of size 0
        clears it.
        """
        from tinker import types
        from tinker.lib.client_connection_pool_type import ClientConnectionPoolType

        holder, model = self.client.holder, self.client.model_id

        async def unload() -> Any:
            with holder.aclient(ClientConnectionPoolType.TRAIN) as client:
                return await client.models.unload(request=types.UnloadModelRequest(model_id=model))

        with suppress(Exception):
            if self._gradients:
                self.optim_step(AdamParams(lr=0.0)).wait()
            holder.run_coroutine_threadsafe(unload()).result(timeout=self.timeout)


class TinkerService(_Client):
    """A server.

    Args:
        api_key: None if the server needs none.
        timeout: Seconds for one request, including queueing and compilation on the server.
        pipelined: The server executes an adapter's requests in the order of their numbers, so a step may be
            sent before its gradients are answered. SkyRL 0.4.0 does not always.

    Attributes:
        name: The title in the server's OpenAPI description, and the SDK's version.

    Raises:
        UsageError: the SDK is not installed, the server does not answer, or it does not have the model.
    """

    def __init__(
        self, base_url: str, base_model: str, *, api_key: str | None, timeout: float, pipelined: bool
    ) -> None:
        try:
            import tinker
        except ImportError:
            raise UsageError(
                f"engine: tinker needs the SDK: {install_command('tinker')}, in the version that the server "
                "speaks (docs/scaling.md)"
            ) from None
        self.base_url, self.base_model, self.pipelined = base_url.rstrip("/"), base_model, pipelined
        _reachable(self.base_url)
        try:
            super().__init__(
                tinker.ServiceClient(base_url=self.base_url, api_key=api_key or PLACEHOLDER_KEY), timeout
            )
            offered = [m.model_name for m in self.client.get_server_capabilities().supported_models]
        except Exception as error:
            raise UsageError(
                f"the server at {base_url} does not speak with tinker {tinker.__version__}: {_short(error)}; "
                "docs/scaling.md says which version fits which server"
            ) from error
        if offered and base_model not in offered:
            raise UsageError(
                f"the server at {base_url} has no model {base_model!r}, but "
                f"{', '.join(map(str, offered[:8]))}: set engine.settings.base_model"
            )
        self.name = f"{_server_title(self.base_url)}, tinker {tinker.__version__}"

    def create(self, *, rank: int, seed: int) -> TinkerTrainer:
        """A new adapter; equal arguments give equal weights."""
        client = self._call(
            "create_lora_training_client", self.base_model, rank=rank, seed=seed, train_unembed=False
        )
        return TinkerTrainer(self, client)

    def restore(self, path: str) -> TinkerTrainer:
        """A new adapter with the weights and optimizer state stored by `TinkerTrainer.save`."""
        return TinkerTrainer(self, self._call("create_training_client_from_state_with_optimizer", path))

    def reference(self) -> TinkerSampler:
        """A sampler of the base model."""
        client = self._call("create_sampling_client", base_model=self.base_model)
        return TinkerSampler(client, self.timeout)


def _server_title(base_url: str) -> str:
    """The title in the server's OpenAPI description; "unknown server" without one."""
    try:
        info = _get(f"{base_url}/openapi.json").json()["info"]
        title = f"{info['title']} {info['version']}"
        return f"SkyRL ({title})" if info["title"] == SKYRL else title
    except (httpx2.HTTPError, ValueError, KeyError, TypeError):
        return "unknown server"


def _get(url: str, timeout: float = 10) -> httpx2.Response:
    # A proxy of the environment cannot reach servers on this machine.
    return httpx2.get(url, timeout=timeout, follow_redirects=True, trust_env=not is_loopback(url))


def _reachable(base_url: str) -> None:
    """Fail at once; the SDK would retry for minutes."""
    try:
        _get(base_url)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise UsageError(
            f"nothing answers at {base_url}: {_short(error)}; start it, or set engine.settings.base_url"
        ) from None


def _model_input(ids: Sequence[int]) -> Any:
    import tinker

    return tinker.ModelInput.from_ints([int(i) for i in ids])


def _data(data: Sequence[Datum]) -> list[Any]:
    import tinker

    return [
        tinker.Datum(
            model_input=_model_input(d.tokens.tolist()),
            loss_fn_inputs={
                k: tinker.TensorData.from_numpy(np.ascontiguousarray(v)) for k, v in d.inputs.items()
            },
        )
        for d in data
    ]


def _adam(params: AdamParams) -> Any:
    import tinker

    clip = {} if np.isinf(params.max_grad_norm) else {"grad_clip_norm": params.max_grad_norm}
    if "grad_clip_norm" not in tinker.AdamParams.model_fields:
        clip = {}
    return tinker.AdamParams(
        learning_rate=params.lr,
        beta1=params.beta1,
        beta2=params.beta2,
        eps=params.eps,
        weight_decay=params.weight_decay,
        **clip,
    )


def _read_logprobs(output: Any, data: Sequence[Datum]) -> list[Floats]:
    found = []
    for given, datum in zip(output.loss_fn_outputs, data, strict=True):
        tensor = given.get("logprobs")
        shape = datum.inputs["target_tokens"].shape
        values = None if tensor is None else np.asarray(tensor.data, np.float32).reshape(-1)
        if values is None or values.size != np.prod(shape):
            size = "none" if values is None else values.size
            raise TinkerError(f"the server returned {size} log-probs for targets of shape {shape}")
        found.append(values.reshape(shape))
    return found


def _after_first(found: Sequence[float | None], length: int) -> list[float]:
    """Without the entry for the first id, which only some servers return."""
    kept = [x for x in found[len(found) - (length - 1) :] if x is not None]
    if len(found) not in (length, length - 1) or not np.isfinite(kept).all() or len(kept) != length - 1:
        raise TinkerError(f"the server returned {len(found)} log-probs for a text of {length} tokens")
    return [float(x) for x in kept]


def _read_samples(output: Any) -> list[Sample]:
    found = []
    for sequence in output.sequences:
        if sequence.logprobs is None or len(sequence.logprobs) != len(sequence.tokens):
            raise TinkerError("the server did not return a log-prob for each sampled token")
        ids, logprobs = tuple(map(int, sequence.tokens)), tuple(map(float, sequence.logprobs))
        found.append(Sample(ids, logprobs, "eos" if sequence.stop_reason == "stop" else "length"))
    return found


def _short(error: BaseException) -> str:
    """An error on one line of at most 400 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else text[:400] + "…"
