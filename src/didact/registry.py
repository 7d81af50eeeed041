"""Every component that ships, by name: the one table behind lists of names, `--help` and "did you mean".

Classes are named, not imported, so that this table costs nothing. An installed package adds names through the
entry-point groups `didact.methods`, `didact.feedback`, `didact.tasks`, `didact.engines`, `didact.rewards` and
`didact.environments`; a class of your own is named as `file.py:Class` or `package.module:Class`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from didact.settings import Entry, Registry, load_class

METHODS: Registry[Any] = Registry(
    "method",
    "didact.methods",
    {
        "sft": Entry("didact.methods.sft:SFT", "cross-entropy on references"),
        "grpo": Entry("didact.methods.grpo:GRPO", "group-relative policy gradient"),
        "grpo-2turn": Entry("didact.methods.grpo:GRPO", "GRPO over an answer and its revision", {"turns": 2}),
        "rltf-sd": Entry("didact.methods.rltf:RLTF", "self-distillation of revisions", {"lambda_fm": 0.0}),
        "rltf-fm": Entry("didact.methods.rltf:RLTF", "feedback modelling", {"lambda_sd": 0.0}),
        "rltf": Entry("didact.methods.rltf:RLTF", "self-distillation and feedback modelling"),
        "rltf-self": Entry("didact.methods.self_critique:SelfCritiqueRL", "RL of the model's own critiques"),
        "rl2f": Entry("didact.methods.rl2f:RL2F", "GRPO over dialogues with a teacher"),
        "sft-dialogues": Entry("didact.methods.rejection_sft:RejectionSFT", "SFT on solved dialogues"),
        "text2grad": Entry("didact.methods.text2grad:Text2Grad", "token-level rewards from quoted spans"),
        "ppo": Entry("didact.methods.ppo:PPO", "PPO with one reward at the end"),
        "ilf": Entry("didact.methods.ilf:ILF", "SFT on the best revisions"),
        "feedback-descent": Entry(
            "didact.descend.feedback_descent:FeedbackDescent", "prompt optimisation; run by `didact descend`"
        ),
    },
    requires=("collect", "rows"),
)

SOURCES: Registry[Any] = Registry(
    "feedback source",
    "didact.feedback",
    {
        "program": Entry("didact.build.sources:ProgramSource", "the task's verifier, compiler or tests"),
        "judge:openai": Entry("didact.build.sources:ServerJudgeSource", "a model behind an OpenAI-style API"),
        "judge:local": Entry("didact.build.sources:LocalJudgeSource", "a model in this process"),
        "teacher": Entry("didact.build.sources:TeacherSource", "a model that sees the reference"),
        "self": Entry("didact.build.sources:SelfSource", "the policy without private information"),
        "retry": Entry("didact.build.sources:RetrySource", "one fixed sentence"),
        "reward": Entry("didact.build.sources:RewardSource", "the critique of the judge that scores answers"),
        "recorded": Entry("didact.build.sources:RecordedSource", "recorded critiques of exactly this answer"),
        "human": Entry("didact.build.sources:HumanSource", "recorded critiques by people only"),
        "reward-model": Entry("didact.build.reward_models:RewardModelSource", "a trained reward model"),
    },
    requires=("critique",),
)

REWARDS: Registry[Any] = Registry(
    "judge of rewards",
    "didact.rewards",
    {
        "judge:openai": Entry("didact.build.rewards:ServerRubric", "a model behind an OpenAI-style API"),
        "judge:local": Entry("didact.build.rewards:LocalRubric", "a model in this process"),
    },
    requires=("model_of",),
)

ENGINES: Registry[Any] = Registry(
    "engine",
    "didact.engines",
    {
        "local": Entry("didact.build.engines:LocalSettings", "trained and sampled in this process"),
        "tinker": Entry("didact.build.engines:TinkerSettings", "on a server that speaks the Tinker protocol"),
        "vllm": Entry("didact.build.engines:VLLMSettings", "trained here, sampled on a vLLM server"),
    },
    requires=("sample", "forward_backward", "optim_step"),
)


def _generators() -> Mapping[str, Entry]:
    """Every generator of reasoning-gym."""
    names: Callable[..., Any] = load_class("didact.tasks.reasoning_gym:generator_names", "task")
    return {name: _generator(name) for name in names()}


def _generator(name: str) -> Entry:
    return Entry("didact.tasks.reasoning_gym:ReasoningGymTaskConfig", defaults={"generator": name})


TASKS: Registry[Any] = Registry(
    "task",
    "didact.tasks",
    {
        "prompts": Entry("didact.tasks.prompts:PromptsTaskConfig", "your own prompts, a file or dataset"),
        "offline": Entry("didact.tasks.offline:OfflineTaskConfig", "recorded answers and critiques"),
        "code": Entry("didact.tasks.code:CodeTaskConfig", "functions to write, verified by tests"),
        "math": Entry("didact.tasks.math:MathTaskConfig", "mathematics, verified by math-verify"),
        "writing": Entry("didact.tasks.prompts:WritingTaskConfig", "texts that a judge scores"),
        "mixture": Entry("didact.tasks.reasoning_gym:MixtureTaskConfig", "several generators"),
        "annotated": Entry(
            "didact.reward_model.task:AnnotatedTaskConfig", "annotated answers, for a reward model"
        ),
    },
    more=_generators,
    prefixes={"reasoning_gym": _generator},
    requires=("train_problem", "eval_problems", "verify"),
)
