"""vLLM's endpoints on loopback with a real tiny model behind them, and faults on demand.

Fields and paths are those of vLLM 0.32. The model is a LocalEngine of its own, whose adapter is read from the
directory that `/v1/load_lora_adapter` names. No part of vLLM runs here.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from didact.engines.base import Sample, SamplingParams
from didact.engines.local import LocalEngine
from tests.loopback import Handler, Loopback

BASE = "base-model"


class VllmServer(Loopback):
    """Serves a LocalEngine as vLLM would.

    Args:
        engine: Whose weights it starts with; the server owns it.
        script: Faults of the first calls of a path: {"/v1/completions": ["500", None, "cut"]}.
        spoil: Changes the JSON of completions before it is sent.
    """

    def __init__(
        self,
        engine: LocalEngine,
        *,
        script: dict[str, list[str | None]] | None = None,
        spoil: Callable[[dict[str, Any]], None] | None = None,
        key: str | None = None,
        max_model_len: int = 128,
    ) -> None:
        super().__init__(_Handler)
        self.engine, self.spoil, self.key = engine, spoil, key
        self.script = script or {}
        self.max_model_len = max_model_len
        self.calls: list[str] = []
        self.bodies: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.adapters: dict[str, Path] = {}
        self.read_from: Path | None = None
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
        if body["model"] != BASE and body["model"] not in self.adapters:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        stop = tuple(body["stop"])
        params = SamplingParams(
            body["max_tokens"],
            body["temperature"],
            body["top_p"],
            body["top_k"],
            stop,
            body["repetition_penalty"],
            body["min_tokens"],
        )
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
        }

    def load_lora(self, body: Any) -> tuple[int, Any]:
        if body["lora_name"] in self.adapters:
            return 400, {"error": f"The lora adapter '{body['lora_name']}' has already been loaded."}
        path = Path(body["lora_path"])
        if not (path / "adapter_config.json").exists():
            return 404, {"error": f"No adapter found for '{path}'"}
        self.adapters[body["lora_name"]] = self.read_from or path
        return 200, "Success: LoRA adapter added successfully."

    def unload_lora(self, body: Any) -> tuple[int, Any]:
        return (200, "Success") if self.adapters.pop(body["lora_name"], None) else (404, {"error": "no such"})


ROUTES: dict[str, Callable[[VllmServer, Any], tuple[int, Any]]] = {
    "/v1/models": VllmServer.models,
    "/v1/completions": VllmServer.completions,
    "/v1/load_lora_adapter": VllmServer.load_lora,
    "/v1/unload_lora_adapter": VllmServer.unload_lora,
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
        if fault == "lost":  # executed, but the reply is lost
            return self.hang_up()
        if fault == "cut":
            return self.send(status, content[: len(content) // 2], claimed=len(content))
        return self.send(status, content)
