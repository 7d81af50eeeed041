"""The embedded engine: torch + transformers + peft, on a CPU or a GPU, in one process or several."""

from didact.distributed import is_launched
from didact.engines.local.engine import LocalEngine
from didact.engines.local.loading import LoraSettings

__all__ = ["LocalEngine", "LoraSettings", "select_engine_class"]


def select_engine_class() -> type[LocalEngine]:
    """DistributedEngine in a process that a launcher started as one of several, else LocalEngine."""
    if is_launched():
        from didact.engines.local.distributed import DistributedEngine

        return DistributedEngine
    return LocalEngine
