"""Which engine class a process makes: alone, or as one of several that were launched together."""

from __future__ import annotations

from didact.distributed import is_launched
from didact.engines.local.engine import LocalEngine


def select_engine_class() -> type[LocalEngine]:
    """DistributedEngine in a process that a launcher started as one of several, else LocalEngine."""
    if is_launched():
        from didact.engines.local.distributed import DistributedEngine

        return DistributedEngine
    return LocalEngine
