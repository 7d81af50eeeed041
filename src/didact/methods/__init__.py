"""Methods by name. A name is a class with its defaults; everything else is a setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from didact.errors import UsageError, did_you_mean
from didact.methods.base import Method, Term
from didact.methods.grpo import GRPO
from didact.methods.ilf import ILF
from didact.methods.ppo import PPO
from didact.methods.rejection_sft import RejectionSFT
from didact.methods.rl2f import RL2F
from didact.methods.rltf import RLTF
from didact.methods.self_critique import SelfCritiqueRL
from didact.methods.self_distillation import SelfDistillation
from didact.methods.sft import SFT
from didact.methods.text2grad import Text2Grad

METHODS: dict[str, tuple[Callable[..., Method], Mapping[str, Any]]] = {
    "sft": (SFT, {}),
    "grpo": (GRPO, {}),
    "grpo-2turn": (GRPO, {"turns": 2}),
    "rltf-sd": (RLTF, {"lambda_fm": 0.0}),
    "rltf-fm": (RLTF, {"lambda_sd": 0.0}),
    "rltf": (RLTF, {}),
    "rltf-self": (SelfCritiqueRL, {}),
    "rl2f": (RL2F, {}),
    "sft-dialogues": (RejectionSFT, {}),
    "text2grad": (Text2Grad, {}),
    "ppo": (PPO, {}),
    "ilf": (ILF, {}),
}


def make_method(name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """A method by name, with its defaults overridden.

    Raises:
        UsageError: unknown name or setting (with the nearest valid one), or a value out of range.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}: {did_you_mean(name, METHODS)}")
    cls, defaults = METHODS[name]
    fields = getattr(cls, "model_fields", {})
    for key in settings or {}:
        if key not in fields:
            raise UsageError(f"{name} has no setting {key!r}: {did_you_mean(key, fields)}")
    try:
        return cls(**{**defaults, **(settings or {})})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UsageError(f"{name}: {key} = {first['input']!r}: {first['msg']}") from None


__all__ = [
    "GRPO",
    "ILF",
    "METHODS",
    "PPO",
    "RL2F",
    "RLTF",
    "SFT",
    "Method",
    "RejectionSFT",
    "SelfCritiqueRL",
    "SelfDistillation",
    "Term",
    "Text2Grad",
    "make_method",
]
