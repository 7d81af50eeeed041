"""The trainer's end of an NCCL group, with torch alone. Never run by the project: it needs two GPUs.

vLLM's workers join through an ncclUniqueId. torch makes one when a process group connects and leaves it in
the group's store under "0", which is no promise of torch's: if it moves, `open` fails and says so.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from didact.errors import CapabilityError

ID_BYTES = 128
OPEN_SECONDS = 60
_STORE_HOST = "127.0.0.1"


class Nccl:
    """Rank 0, on one CUDA device.

    Args:
        device: Where the trained weights lie, as "cuda:0".
    """

    def __init__(self, device: str = "cuda:0") -> None:
        self.device = torch.device(device)
        self._group: Any = None
        self._connecting: threading.Thread | None = None

    def open(self, world_size: int) -> bytes:
        """Begin a group; returns its id, which the workers need to join.

        Raises:
            CapabilityError: no NCCL or no CUDA device here, or a torch that keeps the id elsewhere.
        """
        if not (torch.cuda.is_available() and torch.distributed.is_nccl_available()):
            raise CapabilityError("weights over NCCL need a CUDA device here: train a LoRA (transfer: lora)")
        dist: Any = torch.distributed
        torch.cuda.set_device(self.device)
        limit = datetime.timedelta(seconds=OPEN_SECONDS)
        # Port 0 takes a free one; nobody but this process joins the store.
        store = dist.TCPStore(_STORE_HOST, 0, is_master=True, wait_for_workers=False, timeout=limit)
        self._group = dist.ProcessGroupNCCL(store, 0, world_size, dist.ProcessGroupNCCL.Options())
        # It writes the id and then waits for the workers, so that it needs a thread and a second client.
        self._connecting = threading.Thread(
            target=self._group.eager_connect_single_device, args=(self.device,), daemon=True
        )
        self._connecting.start()
        reader = dist.TCPStore(_STORE_HOST, store.port, is_master=False, timeout=limit)
        reader.wait(["0"], limit)
        unique_id: bytes = reader.get("0")
        if len(unique_id) != ID_BYTES:
            raise CapabilityError(
                f"this torch ({torch.__version__}) keeps no ncclUniqueId under '0' of its store"
            )
        return unique_id

    def connect(self) -> None:
        """Join, and take part in the workers' warm-up."""
        assert self._connecting is not None, "open comes first"
        self._connecting.join()
        torch.cuda.set_device(self.device)
        self._group.allreduce([torch.zeros(1, device=self.device)]).wait()
        torch.cuda.synchronize(self.device)

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Send each tensor in a broadcast of its own."""
        torch.cuda.set_device(self.device)
        dist: Any = torch.distributed
        options = dist.BroadcastOptions()
        options.rootRank = 0
        for tensor in tensors:
            self._group.broadcast([tensor.to(self.device)], options).wait()
        torch.cuda.synchronize(self.device)

    def close(self) -> None:
        """Break the group off."""
        if self._group is not None:
            self._group.abort()
            self._group = None
