"""The embedded engine: torch + transformers + peft, in one process, on a CPU or a GPU."""

from didact.engines.local.engine import LocalEngine
from didact.engines.local.loading import LoraSettings

__all__ = ["LocalEngine", "LoraSettings"]
