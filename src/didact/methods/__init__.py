"""Methods: how feedback becomes learning. One paper, one file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from didact.methods.base import LossTerm as LossTerm
from didact.methods.base import Method as Method
from didact.methods.grpo import GRPO as GRPO
from didact.methods.ilf import ILF as ILF
from didact.methods.ppo import PPO as PPO
from didact.methods.rejection_sft import RejectionSFT as RejectionSFT
from didact.methods.rl2f import RL2F as RL2F
from didact.methods.rltf import RLTF as RLTF
from didact.methods.self_critique import SelfCritiqueRL as SelfCritiqueRL
from didact.methods.sft import SFT as SFT
from didact.methods.text2grad import Text2Grad as Text2Grad
from didact.registry import METHODS as METHODS


def make_method(spec: str, settings: Mapping[str, Any] | None = None) -> Method:
    """A method by name or as "file.py:Class", with its defaults overridden.

    Raises:
        UsageError: unknown name or setting (with the nearest valid one), or a value out of range.
    """
    method: Method = METHODS.make(spec, settings)
    return method
