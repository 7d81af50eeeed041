"""From settings to the components they name: task, critic, method, engine."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from didact.build.checks import check_lengths, check_task
from didact.build.engines import EngineContext, build_engine, make_engine
from didact.build.rewards import JudgeReward, UsageCost, check_reward, make_scoring
from didact.build.sources import BuildContext, ProgramSource
from didact.config import RunConfig
from didact.controls import controlled
from didact.engines.base import Engine, refuse_unsupported
from didact.errors import UsageError
from didact.feedback_source import FeedbackSource
from didact.leakage import LeakGuard
from didact.methods import Method, make_method
from didact.registry import ENGINES, METHODS, SOURCES, TASKS
from didact.rendering.renderer import Renderer
from didact.rollouts.base import StepContext
from didact.tasks import make_task
from didact.tasks.base import BaseTask, PolicyLimits, Task, as_base_task, validate_task

PREFIX = "instance:"
"""Begins the name of a component that only an object can stand for."""


@dataclass(frozen=True)
class RunComponents:
    """What a run is made of."""

    config: RunConfig
    task: BaseTask
    critic: FeedbackSource
    """Writes true critiques, also for evaluation."""
    feedback: FeedbackSource
    """What the method reads: the critic, or a control that wraps it."""
    method: Method
    engine: Engine
    renderer: Renderer
    scoring: JudgeReward | None = None
    """Scores answers where the task has no verifier."""
    source: Any = None
    """The settings that the critic was built from, or the feedback source that was given."""
    loaded: Mapping[str, tuple[Engine, Renderer]] = field(default_factory=dict)
    """Models besides the policy, by path, each with its renderer."""

    def context(
        self, *, seed: int, step: int, progress: float, method_state: Mapping[str, Any] | None = None
    ) -> StepContext:
        """What one training step may use."""
        return StepContext(
            engine=self.engine,
            renderer=self.renderer,
            task=self.task,
            feedback=self.feedback,
            sampling=self.config.sampling.params(),
            seed=seed,
            step=step,
            progress=progress,
            offline=self.task.offline,
            method_state=copy.deepcopy(dict(method_state or {})),
        )

    def pop_reward_cost(self) -> UsageCost:
        """What the judge of the rewards cost since the last call; zero where there is none."""
        return UsageCost() if self.scoring is None else self.scoring.pop_cost()


def build(
    config: RunConfig,
    *,
    for_training: bool = True,
    home: Path | None = None,
    instances: Instances | None = None,
) -> RunComponents:
    """Make everything that a config names, cheap things first.

    Args:
        for_training: Also check that the method can learn from what the task offers.
        home: The run directory, where a feedback source keeps its files.
        instances: Objects in place of names.

    Raises:
        UsageError, DataError: a name, file or row that cannot be used; nothing was written.
    """
    given = instances or Instances()
    check_given(config, given)
    method = given.method or make_method(config.method, config.settings)
    task = run_task(config) if given.task is None else as_base_task(given.task)
    check_reward(config, task)
    source = given.feedback or SOURCES.make(config.feedback.source, config.feedback.settings)
    engine_settings = given.engine or ENGINES.make(config.engine.name, config.engine.settings)
    if not task.needs_judge:  # a judge's scores are no proof of a reference
        validate_task(task)
    if for_training:
        check_task(config, method, task, source)
    policy = engine, renderer = _policy(config, method, engine_settings, for_training=for_training)
    limits = PolicyLimits(
        prompt_tokens=lambda messages: len(renderer.prompt(messages)),
        answer_tokens=lambda text: len(renderer.answer(text)),
        context=engine.max_length,
        max_tokens=config.sampling.max_tokens,
        chat_template=config.model.chat_template,
    )
    task.bind_policy(limits)
    in_dialogue = method.uses_dialogue_teacher or config.eval.dialogue is not None
    at = build_context(config, task, policy, home, in_dialogue=in_dialogue)
    scoring = make_scoring(config, at)
    if scoring is not None and task.needs_judge:
        task.bind_judge(scoring)
    critic = make_critic(config, at, scoring, source=source)
    feedback = controlled(critic, config.feedback.control, seed=config.seed, verify=task.verify)
    if for_training:
        check_lengths(config, method, task, policy)
    return RunComponents(config, task, critic, feedback, method, engine, renderer, scoring, source, at.loaded)


def _policy(
    config: RunConfig, method: Method, engine_settings: Any, *, for_training: bool
) -> tuple[Engine, Renderer]:
    """The engine, if it supports what the method and the sampling need, with its renderer."""
    engine = build_engine(
        engine_settings,
        EngineContext(
            model=config.model,
            seed=config.seed,
            needs_reference=method.needs_reference,
            value_head=method.value_head,
            max_grad_norm=config.optim.max_grad_norm,
            for_training=for_training,
        ),
    )
    penalties = config.sampling.params().penalised
    refuse_unsupported(engine, entropy=for_training and method.needs_entropy, penalties=penalties)
    return engine, Renderer(engine.tokenizer, config.model.chat_template, engine.end_ids)


def run_task(config: RunConfig) -> BaseTask:
    """The configured task; raises as `make_task`."""
    return as_base_task(make_task(config.task.name, config.task.settings, seed=config.seed))


def make_critic(
    config: RunConfig, at: BuildContext, scoring: JudgeReward | None = None, *, source: Any = None
) -> FeedbackSource:
    """The configured source with its leak guard, without controls.

    Args:
        config: `feedback` names the source, `reward` the judge of the rewards, where its critiques are it.
        scoring: The judge of the rewards, where there is one already.
        source: Its settings, or the source itself; None for those that `feedback` names.
    """
    made = source or SOURCES.make(config.feedback.source, config.feedback.settings)
    shown = config.feedback.thoughts and not isinstance(made, ProgramSource)
    if hasattr(made, "build"):
        judge = partial(make_scoring, config, at) if scoring is None else lambda: scoring
        made = made.build(dataclasses.replace(at, judge=judge))
    return LeakGuard(made, config.feedback.leaks, thoughts=shown)


def build_context(
    config: RunConfig,
    task: BaseTask | None,
    policy: tuple[Engine, Renderer] | None,
    home: Path | None,
    *,
    in_dialogue: bool = False,
) -> BuildContext:
    """What the configured sources are built from; `config.model` is what a frozen copy is made of."""

    def load(model: str | None) -> tuple[Engine, Renderer]:
        chosen = config.model.model_copy(update={"path": model or config.model.path, "lora": None})
        template = config.model.chat_template if model in (None, config.model.path) else {}
        engine = make_engine(chosen)
        loaded[chosen.path] = engine, Renderer(engine.tokenizer, template, engine.end_ids)
        return loaded[chosen.path]

    loaded: dict[str, tuple[Engine, Renderer]] = {}
    return BuildContext(load, policy, task, config.seed, home, in_dialogue, loaded=loaded)


@dataclass(frozen=True)
class Instances:
    """Objects in place of names; None where the config has a name."""

    method: Method | None = None
    feedback: FeedbackSource | None = None
    task: Task | None = None
    engine: Engine | None = None


def describe(component: Any) -> tuple[str, dict[str, Any]]:
    """The name and settings of an object in a config.

    A pydantic object whose class can be imported is "module:Class" with its fields, from which it can be made
    again; any other object is "instance:module.Class" without settings.
    """
    kind = type(component)
    importable = getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind
    if not isinstance(component, BaseModel):
        return f"{PREFIX}{kind.__module__}.{kind.__qualname__}", {}
    values = component.model_dump(mode="json")
    if importable and kind.__module__ != "__main__":
        return f"{kind.__module__}:{kind.__qualname__}", values
    return f"{PREFIX}{kind.__module__}.{kind.__qualname__}", values


def check_given(config: RunConfig, instances: Instances) -> None:
    """Refuse missing objects, and others than those that a config records.

    Raises:
        UsageError: naming the object and what differs.
    """
    named = {
        "method": (config.method, config.settings),
        "feedback": (config.feedback.source, config.feedback.settings),
        "task": (config.task.name, config.task.settings),
        "engine": (config.engine.name, config.engine.settings),
    }
    tables = {"method": METHODS, "feedback": SOURCES, "task": TASKS, "engine": ENGINES}
    for key, (name, settings) in named.items():
        component = getattr(instances, key)
        if component is not None:
            tables[key].check(component, f"the {key} given")
        if component is None and name.startswith(PREFIX):
            raise UsageError(
                f"the {key} of this run was an object of class {name.removeprefix(PREFIX)}: give it again in "
                f"Python, as didact.resume(PATH, {key}=…), or name the class as file.py:Class in a new run"
            )
        if component is not None and describe(component) != (name, settings):
            given, values = describe(component)
            changed = [k for k in {**settings, **values} if settings.get(k) != values.get(k)]
            where = f" with other settings ({', '.join(changed)})" if given == name else f", not {name}"
            raise UsageError(f"the {key} given is {given}{where}: give the one that the run was made with")
