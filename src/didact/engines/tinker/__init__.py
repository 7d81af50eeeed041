"""An engine on a server that speaks the Tinker protocol: SkyRL, TuFT, a hosted service."""

from didact.engines.tinker.connect import Address, connect
from didact.engines.tinker.engine import TinkerEngine
from didact.engines.tinker.protocol import TinkerError

__all__ = ["Address", "TinkerEngine", "TinkerError", "connect"]
