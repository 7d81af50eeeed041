"""Didact trains language models from what is said about their answers.

    import didact

    run = didact.train("rltf-sd", out="runs/first", task="spell_backward", steps=20)

Names are imported when they are first used, so that `import didact` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from didact.engines.local import LocalEngine, LoraSettings
    from didact.errors import DidactError
    from didact.evaluation.evaluate import evaluate
    from didact.methods import GRPO, RLTF, SFT, make_method
    from didact.rendering.renderer import Renderer
    from didact.rollouts.base import StepContext
    from didact.rollouts.multi_turn import two_turn
    from didact.rollouts.single_turn import single_turn
    from didact.tasks import make_task
    from didact.training.api import resume, train
    from didact.types import Feedback, Message, Problem, Rollout, Row, Span, Turn

__version__ = "0.1.0"

_HOMES = {
    "StepContext": "didact.rollouts.base",
    "DidactError": "didact.errors",
    "Feedback": "didact.types",
    "GRPO": "didact.methods",
    "LocalEngine": "didact.engines.local",
    "LoraSettings": "didact.engines.local",
    "Message": "didact.types",
    "Problem": "didact.types",
    "RLTF": "didact.methods",
    "Renderer": "didact.rendering.renderer",
    "Rollout": "didact.types",
    "Row": "didact.types",
    "SFT": "didact.methods",
    "Span": "didact.types",
    "Turn": "didact.types",
    "evaluate": "didact.evaluation.evaluate",
    "make_method": "didact.methods",
    "make_task": "didact.tasks",
    "resume": "didact.training.api",
    "single_turn": "didact.rollouts.single_turn",
    "train": "didact.training.api",
    "two_turn": "didact.rollouts.multi_turn",
}

__all__ = [
    "GRPO",
    "RLTF",
    "SFT",
    "DidactError",
    "Feedback",
    "LocalEngine",
    "LoraSettings",
    "Message",
    "Problem",
    "Renderer",
    "Rollout",
    "Row",
    "Span",
    "StepContext",
    "Turn",
    "evaluate",
    "make_method",
    "make_task",
    "resume",
    "single_turn",
    "train",
    "two_turn",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'didact' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
