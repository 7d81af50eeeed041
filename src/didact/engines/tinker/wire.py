"""The Tinker wire: the only module that knows the `tinker` SDK and how its versions differ.

It puts the SDK behind the protocols of `protocol.py`. The SDK numbers the requests of one adapter, sends
them in that order, and repeats one with its number where a connection breaks.

What differs between SDK versions 0.22 and 0.38, and is taken care of here:

* `optim_step` takes `adam_params`, from 0.38 on under the name `optim_params` (both by position);
* older AdamParams have no `grad_clip_norm`;
* a sequence's and an output's arrays are lists, or numpy arrays behind the same names;
* `create_sampling_client` and `create_lora_training_client` return the client or, from 0.38 on, a future
  that behaves like it;
* from 0.38 on `get_checkpoint_archive_url…` is gone, so an adapter stays on the server.
"""

from __future__ import annotations

import io
import itertools
import json
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from didact.engines.base import AdamParams, SamplingParams
from didact.engines.tinker.protocol import (
    Datum,
    Floats,
    Pending,
    Sampler,
    Sequenced,
    ServerError,
    Trainer,
)
from didact.errors import DidactError, UsageError, install_command
from didact.types import Ids

T = TypeVar("T")
SKYRL = "Tinker API Mock"
"""What SkyRL calls itself in its description, which does not tell its release."""
PLACEHOLDER_KEY = "tml-none"
"""Sent to a server that asks for no key; the SDK does not start without one of this form."""


@dataclass
class _Answer(Generic[T]):
    """An SDK future, with a time limit and plain errors."""

    future: Any
    what: str
    timeout: float
    read: Callable[[Any], T]

    def wait(self) -> T:
        try:
            return self.read(self.future.result(timeout=self.timeout))
        except DidactError:
            raise  # an answer that was read and refused, or a signal that came while waiting
        except TimeoutError:
            raise ServerError(
                f"the server did not answer {self.what} within {self.timeout:g} s: look at its log, or raise "
                "engine.settings.timeout"
            ) from None
        except Exception as error:
            raise ServerError(f"the server failed at {self.what}: {_short(error)}") from error


class TinkerSampler:
    """A `Sampler` over the SDK's."""

    def __init__(self, client: Any, timeout: float) -> None:
        self.client, self.timeout = client, timeout

    def sample(
        self, prompt: Ids, n: int, params: SamplingParams, *, seed: int, end_ids: Sequence[int]
    ) -> Pending[list[Sequenced]]:
        """See `Sampler`."""
        import tinker

        asked = tinker.SamplingParams(
            max_tokens=params.max_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k or -1,
            seed=seed,
            stop=list(end_ids),
        )
        future = self.client.sample(prompt=_model_input(prompt), num_samples=n, sampling_params=asked)
        return _Answer(future, "sample", self.timeout, _read_samples)

    def logprobs(self, ids: Ids) -> Pending[list[float]]:
        """See `Sampler`."""
        future = self.client.compute_logprobs(_model_input(ids))
        return _Answer(future, "compute_logprobs", self.timeout, lambda out: _after_first(out, len(ids)))


class TinkerTrainer:
    """A `Trainer` over the SDK's."""

    def __init__(self, service: TinkerService, client: Any) -> None:
        self.service, self.client, self.timeout = service, client, service.timeout
        self._names = itertools.count()
        self._gradients: list[_Answer[list[Floats]]] = []
        """Sent since the last step."""

    def forward(self, data: Sequence[Datum]) -> Pending[list[Floats]]:
        """See `Trainer`."""
        future = _submit("forward", self.client.forward, _data(data), "cross_entropy")
        return _Answer(future, "forward", self.timeout, lambda out: _read_logprobs(out, data))

    def forward_backward(
        self, data: Sequence[Datum], loss: str, settings: Mapping[str, float] | None = None
    ) -> Pending[list[Floats]]:
        """See `Trainer`."""
        given = dict(settings) if settings else None
        future = _submit("forward_backward", self.client.forward_backward, _data(data), loss, given)
        sent = _Answer(future, "forward_backward", self.timeout, lambda out: _read_logprobs(out, data))
        self._gradients.append(sent)
        return sent

    def optim_step(self, params: AdamParams) -> Pending[dict[str, float]]:
        """See `Trainer`."""
        if not self.service.pipelined:
            for sent in self._gradients:
                sent.wait()
        self._gradients = []
        future = _submit("optim_step", self.client.optim_step, _adam(params))
        return _Answer(future, "optim_step", self.timeout, lambda out: dict(out.metrics or {}))

    def save(self, name: str) -> Pending[str]:
        """See `Trainer`."""
        future = _submit("save_state", self.client.save_state, name)
        return _Answer(future, "save_state", self.timeout, lambda out: str(out.path))

    def sampler(self) -> Sampler:
        """See `Trainer`."""
        saved: Any = _Answer(
            _submit("save_weights_for_sampler", self.client.save_weights_for_sampler, self._name()),
            "save_weights_for_sampler",
            self.timeout,
            lambda out: out.path,
        )
        client = _submit("create_sampling_client", self.client.create_sampling_client, saved.wait())
        return TinkerSampler(client, self.timeout)

    def download(self, path: Path, name: str) -> bool:
        """See `Trainer`. The archive is unpacked with tar's data filter: nothing leaves the directory."""
        rest = self.service.client.create_rest_client()
        if not hasattr(rest, "get_checkpoint_archive_url"):
            return False
        try:
            self.client.save_weights_for_sampler(name).result(timeout=self.timeout)
            with urllib.request.urlopen(self._archive(rest, name), timeout=self.timeout) as reply:
                packed = io.BytesIO(reply.read())
            with tarfile.open(fileobj=packed) as archive:
                archive.extractall(path, filter="data")
        except Exception as error:
            raise ServerError(
                f"the server keeps the adapter as {name!r} of {self.client.model_id} but sends no archive: "
                f"{_short(error)}"
            ) from error
        return True

    def _archive(self, rest: Any, name: str) -> str:
        """The address of an archive. The protocol has its kind before its name, SkyRL 0.4.0 has not."""
        from tinker import APIStatusError

        ask, model = rest.get_checkpoint_archive_url, self.client.model_id
        try:
            return str(ask(model, f"sampler_weights/{name}").result(timeout=self.timeout).url)
        except APIStatusError as error:
            if error.status_code not in (404, 405):
                raise
        return str(ask(model, name).result(timeout=self.timeout).url)

    def close(self) -> None:
        """See `Trainer`. A server that cannot forget is left alone.

        SkyRL 0.4.0 gives a gradient that waits to the next adapter in the same place: a step of 0 clears it.
        """
        from tinker import types
        from tinker.lib.client_connection_pool_type import ClientConnectionPoolType

        holder, model = self.client.holder, self.client.model_id

        async def unload() -> Any:
            with holder.aclient(ClientConnectionPoolType.TRAIN) as client:
                return await client.models.unload(request=types.UnloadModelRequest(model_id=model))

        try:
            if self._gradients:
                self.optim_step(AdamParams(lr=0.0)).wait()
            holder.run_coroutine_threadsafe(unload()).result(timeout=self.timeout)
        except Exception:
            return

    def _name(self) -> str:
        return f"sampler-{next(self._names):06d}"


class TinkerService:
    """A `Service` over the SDK's client.

    Args:
        base_url: Where the server listens.
        base_model: The model's name there.
        api_key: Its key; None for a server that asks for none.
        timeout: Seconds that one request may take, queueing and compiling there included.
        pipelined: The server carries out an adapter's requests in the order of their numbers, so a step may
            be sent before the gradients are answered. SkyRL 0.4.0 does not always: a gradient that arrives
            between its two looks at the queue is added after the step.

    Raises:
        UsageError: the SDK is not installed, or nothing answers at `base_url`, or the model is unknown.
    """

    def __init__(
        self, base_url: str, base_model: str, *, api_key: str | None, timeout: float, pipelined: bool
    ) -> None:
        tinker = _sdk()
        self.pipelined = pipelined
        self.base_url, self.base_model, self.timeout = base_url.rstrip("/"), base_model, timeout
        _reachable(self.base_url)
        try:
            self.client = tinker.ServiceClient(base_url=self.base_url, api_key=api_key or PLACEHOLDER_KEY)
            offered = [m.model_name for m in self.client.get_server_capabilities().supported_models]
        except Exception as error:
            raise UsageError(
                f"the server at {base_url} does not speak with tinker {sdk_version()}: {_short(error)}; "
                "docs/scaling.md says which version fits which server"
            ) from error
        if offered and base_model not in offered:
            raise UsageError(
                f"the server at {base_url} has no model {base_model!r}, but "
                f"{', '.join(map(str, offered[:8]))}: set engine.settings.base_model"
            )

    @property
    def name(self) -> str:
        """The title that the server's own description gives it, and the SDK's version."""
        return f"{server_title(self.base_url)}, tinker {sdk_version()}"

    def create(self, *, rank: int, seed: int) -> Trainer:
        """See `Service`."""
        client = _submit(
            "create_lora_training_client",
            lambda: self.client.create_lora_training_client(
                self.base_model, rank=rank, seed=seed, train_unembed=False
            ),
        )
        return TinkerTrainer(self, client)

    def restore(self, path: str) -> Trainer:
        """See `Service`."""
        make = self.client.create_training_client_from_state_with_optimizer
        return TinkerTrainer(self, _submit(f"loading {path}", make, path))

    def reference(self) -> Sampler:
        """See `Service`."""
        make = self.client.create_sampling_client
        return TinkerSampler(
            _submit("create_sampling_client", lambda: make(base_model=self.base_model)), self.timeout
        )


def sdk_version() -> str:
    """The installed SDK's version."""
    from importlib.metadata import version

    return version("tinker")


def server_title(base_url: str) -> str:
    """What the server's OpenAPI description calls it; "unknown server" where it has none."""
    try:
        with urllib.request.urlopen(f"{base_url}/openapi.json", timeout=10) as reply:
            info = json.load(reply)["info"]
        title = f"{info['title']} {info['version']}"
        return f"SkyRL ({title})" if info["title"] == SKYRL else title
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown server"


def _sdk() -> Any:
    try:
        import tinker
    except ImportError:
        raise UsageError(
            f"engine: tinker needs the SDK: {install_command('tinker')}, in the version that the server "
            "speaks (docs/scaling.md)"
        ) from None
    return tinker


def _reachable(base_url: str) -> None:
    """Fail at once, where the SDK would try for minutes."""
    try:
        urllib.request.urlopen(base_url, timeout=10).close()
    except urllib.error.HTTPError:
        return  # it answers
    except (OSError, ValueError) as error:
        raise UsageError(
            f"nothing answers at {base_url}: {_short(error)}; start it, or set engine.settings.base_url"
        ) from None


def _submit(what: str, call: Callable[..., T], *args: Any) -> T:
    try:
        return call(*args)
    except DidactError:
        raise
    except Exception as error:
        raise ServerError(f"the server failed at {what}: {_short(error)}") from error


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
            raise ServerError(f"the server returned {size} log-probs for targets of shape {shape}")
        found.append(values.reshape(shape))
    return found


def _after_first(found: Sequence[float | None], length: int) -> list[float]:
    """Some servers have an entry for the first id, which has no log-prob, and some have none."""
    kept = [x for x in found[len(found) - (length - 1) :] if x is not None]
    if len(found) not in (length, length - 1) or not np.isfinite(kept).all() or len(kept) != length - 1:
        raise ServerError(f"the server returned {len(found)} log-probs for a text of {length} tokens")
    return [float(x) for x in kept]


def _read_samples(output: Any) -> list[Sequenced]:
    found = []
    for sequence in output.sequences:
        if sequence.logprobs is None or len(sequence.logprobs) != len(sequence.tokens):
            raise ServerError("the server sampled without returning a log-prob for each token")
        ids, logprobs = tuple(map(int, sequence.tokens)), tuple(map(float, sequence.logprobs))
        found.append(Sequenced(ids, logprobs, sequence.stop_reason == "stop"))
    return found


def _short(error: BaseException) -> str:
    """An error on one line: servers send whole pages."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else text[:400] + "…"
