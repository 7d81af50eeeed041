"""LoRA adapters on a vLLM server: each version is written to a shared directory and loaded under a new name.

The server must see the directory under the same path, be started with `--enable-lora` and a `--max-lora-rank`
of at least the adapter's rank, and with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from didact.engines.base import Engine
from didact.errors import UsageError
from didact.llm.http import ClientError, HttpServer, RetryableError, ServerError, parse_json

LOG = logging.getLogger("didact")


class AdapterPublisher:
    """Loads the current adapter into the server and unloads the previous one.

    Args:
        directory: Where adapters are written. Those no longer served are deleted; the last one stays, there
            and on the server.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).absolute()
        self._served: str | None = None

    def publish(self, server: HttpServer, trainer: Engine, name: str) -> None:
        """Load the trainer's adapter into the server under a new name.

        Raises:
            UsageError: the directory cannot be written, or the server does not load adapters.
            ServerError: the server failed; nothing may be sampled until a later call succeeds.
        """
        target = self.directory / name
        try:
            target.mkdir(parents=True)
            trainer.save_pretrained(target)
        except OSError as error:
            raise UsageError(f"the adapter cannot be written into {target}: {error}") from error
        try:
            self._load(server, name, target)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
        before, self._served = self._served, name
        if before is not None:
            self._unload(server, before)

    def _load(self, server: HttpServer, name: str, target: Path) -> None:
        """Safe to repeat: a name never changes its files."""
        cure = (
            "Start the server with --enable-lora, a --max-lora-rank of the adapter's rank and "
            f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, and let it see {self.directory}"
        )
        try:
            _post(server, "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(target)})
        except ServerError as error:  # vLLM answers 500 to an adapter that it cannot load
            raise ServerError(f"{error}. {cure}") from error
        except ClientError as error:
            # If the first reply was lost, the second one is "already loaded".
            if error.status != 400 or name not in served_models(server):
                raise UsageError(f"{error}. {cure}") from error

    def _unload(self, server: HttpServer, name: str) -> None:
        try:
            _post(server, "/v1/unload_lora_adapter", {"lora_name": name})
        except (ClientError, ServerError) as error:
            LOG.warning("the server keeps the unused adapter %s: %s", name, error)
        shutil.rmtree(self.directory / name, ignore_errors=True)


def _post(server: HttpServer, path: str, body: dict[str, str]) -> None:
    server.run(lambda session: session.request("POST", path, body, parse=str))


def served_models(server: HttpServer) -> dict[str, Any]:
    """The entries of `/v1/models` by name.

    Raises:
        ServerError: the server cannot be reached.
    """

    def parse(text: str) -> dict[str, Any]:
        listed = parse_json(text)
        data = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(data, list):
            raise RetryableError(f"/v1/models has no list of models: {text[:200]!r}")
        return {str(m["id"]): m for m in data if isinstance(m, dict) and "id" in m}

    return server.run(lambda session: session.request("GET", "/v1/models", parse=parse))
