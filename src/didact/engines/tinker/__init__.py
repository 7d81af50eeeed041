"""An engine on a server that speaks the Tinker protocol: SkyRL, TuFT, a hosted service."""

from didact.engines.tinker.connect import connect
from didact.engines.tinker.engine import TinkerEngine
from didact.engines.tinker.wire import TinkerError, TinkerService

__all__ = ["TinkerEngine", "TinkerError", "TinkerService", "connect"]
