"""The embedded engine: torch + transformers + peft, on a CPU or a GPU, in one process or several."""

from didact.engines.local.engine import LocalEngine
from didact.engines.local.launch import select_engine_class
from didact.engines.local.loading import LoraSettings

__all__ = ["LocalEngine", "LoraSettings", "select_engine_class"]
