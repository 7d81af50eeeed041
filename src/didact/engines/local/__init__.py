"""The embedded engine: torch + transformers + peft, on a CPU or a GPU, in one process or several."""

from didact.engines.local.engine import LocalEngine
from didact.engines.local.loading import LoraSettings
from didact.engines.local.processes import engine_class

__all__ = ["LocalEngine", "LoraSettings", "engine_class"]
