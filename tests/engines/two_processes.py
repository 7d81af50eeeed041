"""Two ranks: this process is rank 0, and a second one that runs the same functions is rank 1."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

from didact import distributed


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(port: int, rank: int) -> dict[str, str]:
    return {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank),
        "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1",
    }  # fmt: skip


class TwoProcesses:
    """`run(function, …)` calls a top-level function on both ranks."""

    def __init__(self) -> None:
        port = free_port()
        self._before = dict(os.environ)
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        os.environ.update(environment(port, 1))
        self.other = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.other.start()
        os.environ.update(environment(port, 0))

    def run(self, function: Callable[..., Any], *args: Any, env: dict[str, str] | None = None) -> list[Any]:
        """The results of both ranks.

        Raises:
            Exception: what the function raised here, if rank 1 raised the same kind of error.
        """
        self._pipe.send((function, args, env or {}))
        own = _outcome(function, args, env or {})
        other = self._pipe.recv()
        if isinstance(own, Exception) or isinstance(other, Exception):
            assert (type(own), str(own)) == (type(other), str(other))
            raise own
        return [own, other]

    def kill(self) -> None:
        self.other.kill()
        self.other.join()

    def end(self) -> None:
        if self.other.is_alive():
            self._pipe.send(None)
            self.other.join(timeout=60)
        distributed.destroy_process_group()
        os.environ.clear()
        os.environ.update(self._before)


def _serve(pipe: Any) -> None:
    import torch

    torch.set_num_threads(1)
    while (message := pipe.recv()) is not None:
        pipe.send(_outcome(*message))


def _outcome(function: Callable[..., Any], args: Any, env: dict[str, str]) -> Any:
    before = dict(os.environ)
    os.environ.update(env)
    try:
        return function(*args)
    except Exception as error:
        return error
    finally:
        os.environ.clear()
        os.environ.update(before)
