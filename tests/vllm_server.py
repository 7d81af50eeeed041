"""vLLM's endpoints on loopback with a real tiny model behind them, and faults on demand.

Fields and paths are those of vLLM 0.33.0. The model is a LocalEngine of its own, so that what it samples is
of the weights that it was sent and no others: tensors come through `Wire`, adapters from the directory that
`/v1/load_lora_adapter` names. No part of vLLM runs here.
"""

from __future__ import annotations

import base64
import json
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from didact.engines.base import Sample, SamplingParams
from didact.engines.local import LocalEngine
from tests.loopback import Handler, Loopback

BASE = "base-model"
UNIQUE_ID = bytes(range(128))


class Wire:
    """Both ends of a broadcast, in one process: a queue of one, as NCCL waits for its receiver too."""

    def __init__(self) -> None:
        self.tensors: queue.Queue[torch.Tensor] = queue.Queue(1)
        self.joined = threading.Barrier(2)
        self.closed = threading.Event()
        self.world_size = 0
        self.broken = ""

    def open(self, world_size: int) -> bytes:
        self.world_size = world_size
        return UNIQUE_ID

    def connect(self) -> None:
        if self.broken == "connect":
            raise RuntimeError("no route to rank 1")
        self.joined.wait(100)

    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        for tensor in tensors:
            while not self.closed.is_set():
                try:
                    self.tensors.put(tensor, timeout=0.05)
                    break
                except queue.Full:
                    continue

    def close(self) -> None:
        self.closed.set()
        self.joined.abort()


class VllmServer(Loopback):
    """Serves a LocalEngine as vLLM would.

    Args:
        engine: Whose weights it starts with; the server owns it.
        wire: Where tensors come from, for weight transfers.
        script: Faults of the first calls of a path: {"/v1/completions": ["500", None, "cut"]}.
        spoil: Changes the JSON of completions before it is sent.
    """

    def __init__(
        self,
        engine: LocalEngine,
        *,
        wire: Wire | None = None,
        script: dict[str, list[str | None]] | None = None,
        spoil: Callable[[dict[str, Any]], None] | None = None,
        key: str | None = None,
        max_model_len: int = 128,
    ) -> None:
        super().__init__(_Handler)
        self.engine, self.wire, self.spoil, self.key = engine, wire, spoil, key
        self.script = script or {}
        self.max_model_len = max_model_len
        self.calls: list[str] = []
        self.bodies: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.adapters: dict[str, Path] = {}
        self.version = ""
        self.paused = self.updating = False
        self.arrived = threading.Event()
        self._lock = threading.Lock()
        self._model = threading.Lock()

    @property
    def url(self) -> str:
        return self.origin

    def count(self, path: str) -> int:
        return Counter(self.calls)[path]

    def receive(self, path: str, body: Any, headers: dict[str, str]) -> str | None:
        with self._lock:
            self.calls.append(path)
            self.bodies.append((path, body))
            self.headers.append(headers)
            left = self.script.get(path)
            fault = left.pop(0) if left else None
        self.arrived.set()
        return fault

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        route = path.partition("?")[0]
        return ROUTES[route](self, body) if route in ROUTES else (404, {"error": "Not Found"})

    # ── what it does ──────────────────────────────────────────────────────────────────────────────

    def models(self, _: Any) -> tuple[int, Any]:
        base = {"id": BASE, "max_model_len": self.max_model_len, "parent": None}
        return 200, {"data": [base, *({"id": name, "parent": BASE} for name in self.adapters)]}

    def completions(self, body: Any) -> tuple[int, Any]:
        if self.paused:
            return 503, {"error": "paused"}
        if body["model"] != BASE and body["model"] not in self.adapters:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        stop = tuple(body["stop"])
        params = SamplingParams(body["max_tokens"], body["temperature"], body["top_p"], body["top_k"], stop)
        with self._model:
            if body["model"] in self.adapters:
                _take_adapter(self.engine, self.adapters[body["model"]])
            [samples] = self.engine.sample([tuple(body["prompt"])], body["n"], params, seed=body["seed"])
        choices = [self._choice(j, s, body) for j, s in enumerate(samples)]
        reply = {"id": "cmpl-1", "object": "text_completion", "model": body["model"], "choices": choices}
        if self.spoil is not None:
            self.spoil(reply)
        return 200, reply

    def _choice(self, j: int, sample: Sample, body: Any) -> dict[str, Any]:
        span = {"version": self.version, "start": 0, "end": len(sample.ids)}
        text = self.engine.tokenizer.decode(list(sample.ids))
        matched = next((s for s in body["stop"] if s in text), None)
        return {
            "index": j,
            "text": text,
            "finish_reason": "length" if sample.stop_reason == "length" else "stop",
            "stop_reason": matched if sample.stop_reason == "stop" else None,
            "token_ids": list(sample.ids),
            "prompt_token_ids": body["prompt"],
            "logprobs": {"token_logprobs": list(sample.logprobs)},
            "weight_versions": [span] if body["return_weight_versions"] else None,
        }

    def load_lora(self, body: Any) -> tuple[int, Any]:
        if body["lora_name"] in self.adapters:
            return 400, {"error": f"The lora adapter '{body['lora_name']}' has already been loaded."}
        path = Path(body["lora_path"])
        if not (path / "adapter_config.json").exists():
            return 404, {"error": f"No adapter found for '{path}'"}
        self.adapters[body["lora_name"]] = path
        return 200, "Success: LoRA adapter added successfully."

    def unload_lora(self, body: Any) -> tuple[int, Any]:
        return (200, "Success") if self.adapters.pop(body["lora_name"], None) else (404, {"error": "no such"})

    def init(self, body: Any) -> tuple[int, Any]:
        assert self.wire is not None
        given = body["init_info"]
        assert base64.b64decode(given["nccl_unique_id_b64"]) == UNIQUE_ID
        assert given["world_size"] == self.wire.world_size == 3
        assert given["rank_offset"] == 1
        assert given["packed"] is False
        self.wire.joined.wait(100)
        return 200, {"message": "Weight transfer initialized"}

    def pause(self, _: Any) -> tuple[int, Any]:
        self.paused = True
        return 200, {"status": "paused"}

    def start(self, _: Any) -> tuple[int, Any]:
        self.updating = True
        return (200, {}) if self.paused else (500, {"error": "not paused"})

    def update(self, body: Any) -> tuple[int, Any]:
        assert self.wire is not None
        assert self.updating
        info = body["update_info"]
        live = dict(self.engine.model.named_parameters())
        for name, dtype, shape in zip(info["names"], info["dtype_names"], info["shapes"], strict=True):
            tensor = self.wire.tensors.get(timeout=100)
            assert list(tensor.shape) == shape == list(live[name].shape)
            assert tensor.dtype == getattr(torch, dtype)
            with self._model, torch.no_grad():
                live[name].copy_(tensor)
        return 200, {"message": "Weights updated"}

    def finish(self, body: Any) -> tuple[int, Any]:
        assert self.updating
        self.updating, self.version = False, body["weight_version"]
        return 200, {"message": "Weight update finished"}

    def resume(self, _: Any) -> tuple[int, Any]:
        self.paused = False
        return 200, {"status": "resumed"}


ROUTES: dict[str, Callable[[VllmServer, Any], tuple[int, Any]]] = {
    "/v1/models": VllmServer.models,
    "/v1/completions": VllmServer.completions,
    "/v1/load_lora_adapter": VllmServer.load_lora,
    "/v1/unload_lora_adapter": VllmServer.unload_lora,
    "/get_world_size": lambda server, _: (200, {"world_size": 2}),
    "/init_weight_transfer_engine": VllmServer.init,
    "/pause": VllmServer.pause,
    "/start_weight_update": VllmServer.start,
    "/update_weights": VllmServer.update,
    "/finish_weight_update": VllmServer.finish,
    "/weight_info": lambda server, _: (200, {"weight_version": server.version}),
    "/resume": VllmServer.resume,
}


def _take_adapter(engine: LocalEngine, path: Path) -> None:
    """Let the engine's adapter hold what a directory of peft's holds."""
    prefix = "base_model.model."
    saved = {
        name.removeprefix(prefix): t for name, t in load_file(path / "adapter_model.safetensors").items()
    }
    live = {n.replace(".default.", "."): p for n, p in engine.model.named_parameters() if p.requires_grad}
    assert live.keys() == saved.keys()
    with torch.no_grad():
        for name, parameter in live.items():
            parameter.copy_(saved[name])


class _Handler(Handler):
    owner: VllmServer

    def do_GET(self) -> None:
        self._serve(None)

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        self._serve(json.loads(self.rfile.read(length)) if length else None)

    def _serve(self, body: Any) -> None:
        vllm = self.owner
        fault = vllm.receive(self.path, body, self.lower_headers())
        if vllm.key is not None and self.headers["authorization"] != f"Bearer {vllm.key}":
            return self.send(401, b'{"error": "Unauthorized"}')
        if fault == "hang":
            vllm.closing.wait(200)
            return self.hang_up()
        if fault == "reset":
            return self.hang_up()
        if fault == "html":
            return self.send(200, b"<html>502</html>")
        if fault is not None and fault.isdigit():
            return self.send(int(fault), b'{"error": "scripted"}')
        try:
            status, reply = vllm.answer(self.path, body)
        except Exception as error:  # as vLLM, which answers 500
            status, reply = 500, {"error": repr(error)}
        content = reply.encode() if isinstance(reply, str) else json.dumps(reply).encode()
        if fault == "lost":  # done, but nobody hears of it
            return self.hang_up()
        if fault == "cut":
            return self.send(status, content[: len(content) // 2], claimed=len(content))
        return self.send(status, content)


def paths(server: VllmServer, *, but: Sequence[str] = ()) -> list[str]:
    """The paths that were called, in order, without some."""
    return [path for path in server.calls if path not in but]
