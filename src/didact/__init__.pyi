# The public names: `lazy_loader` imports each when it is first used, so that `import didact` needs no torch.

from ._version import __version__ as __version__
from .advantages import group_advantages
from .build.engines import tiny_model
from .distributed import on_main_process
from .engines.base import (
    POLICY,
    REFERENCE,
    AdamParams,
    Capabilities,
    Engine,
    Loss,
    Sample,
    SamplingParams,
    StepOutput,
    Weights,
)
from .engines.local import LocalEngine, LoraSettings
from .errors import (
    CapabilityError,
    CheckpointError,
    DataError,
    DidactError,
    Interrupted,
    TrainingGuard,
    UsageError,
)
from .evaluation.evaluate import evaluate
from .feedback.program import ProgramCritic
from .feedback_source import FeedbackRequest, FeedbackSource
from .losses import LossOutput
from .methods import GRPO, ILF, PPO, RL2F, RLTF, SFT, LossTerm, Method, Text2Grad, make_method
from .prompts import revision_messages
from .registry import ENGINES, METHODS, SOURCES
from .rendering.renderer import Renderer
from .rng import derive_seed
from .rollouts.base import StepContext, single_turn
from .rollouts.multi_turn import two_turn
from .run_dir import RunDir
from .settings import Entry, Registry, load_class
from .tasks import make_task
from .tasks.base import BaseTask, Task, Verdict
from .training.api import resume, train
from .types import Example, Feedback, Message, Problem, Provenance, Rollout, Row, Span, Turn

__all__ = [
    "ENGINES",
    "GRPO",
    "ILF",
    "METHODS",
    "POLICY",
    "PPO",
    "REFERENCE",
    "RL2F",
    "RLTF",
    "SFT",
    "SOURCES",
    "AdamParams",
    "BaseTask",
    "Capabilities",
    "CapabilityError",
    "CheckpointError",
    "DataError",
    "DidactError",
    "Engine",
    "Entry",
    "Example",
    "Feedback",
    "FeedbackRequest",
    "FeedbackSource",
    "Interrupted",
    "LocalEngine",
    "LoraSettings",
    "Loss",
    "LossOutput",
    "LossTerm",
    "Message",
    "Method",
    "Problem",
    "ProgramCritic",
    "Provenance",
    "Registry",
    "Renderer",
    "Rollout",
    "Row",
    "RunDir",
    "Sample",
    "SamplingParams",
    "Span",
    "StepContext",
    "StepOutput",
    "Task",
    "Text2Grad",
    "TrainingGuard",
    "Turn",
    "UsageError",
    "Verdict",
    "Weights",
    "derive_seed",
    "evaluate",
    "group_advantages",
    "load_class",
    "make_method",
    "make_task",
    "on_main_process",
    "resume",
    "revision_messages",
    "single_turn",
    "tiny_model",
    "train",
    "two_turn",
]
