"""From settings to the things they name: task, critic, method, engine."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from didact.build.reward_models import bind_task, run_task
from didact.build.rewards import JudgeReward, UsageCost, against_start, check_reward, make_scoring
from didact.build.source_base import Source
from didact.build.sources import BuildContext, source_settings
from didact.config import ModelConfig, RunConfig
from didact.controls.controls import controlled
from didact.descend.feedback_descent import NAME as DESCENT
from didact.engines.base import Engine, SamplingParams, ValueHeadSettings
from didact.engines.local import LocalEngine, LoraSettings, engine_class
from didact.engines.tinker import Address
from didact.errors import DataError, UsageError
from didact.evaluation.by_turn import DialogueProtocol, DialogueSettings, family_tables
from didact.evaluation.evaluate import Evaluation
from didact.feedback.self_critique import SelfCritique
from didact.feedback_source import FeedbackSource
from didact.leakage import LeakGuard
from didact.methods import SFT, Method, make_method
from didact.rendering.renderer import Renderer
from didact.rng import derive_seed
from didact.rollouts.base import StepContext
from didact.rollouts.engine_chat import EngineChat
from didact.run_dir import RunDir
from didact.tasks.base import Task, validate_problem, validate_task
from didact.tasks.code import CodeTask
from didact.tasks.dataset_task import DatasetTask
from didact.tasks.mixture import MixtureTask
from didact.tasks.offline import OfflineAnswers
from didact.tasks.writing import JudgeScoredTask
from didact.types import Problem

if TYPE_CHECKING:
    from didact.engines.local.distributed import DistributedEngine

TINY = "tiny"
"""The bundled model's name."""


@dataclass(frozen=True)
class RunComponents:
    """What a run is made of."""

    config: RunConfig
    task: Task
    critic: FeedbackSource
    """Writes true critiques, also for evaluation."""
    feedback: FeedbackSource
    """What the method gets to read: the critic, or a control that wraps it."""
    method: Method
    engine: Engine
    renderer: Renderer
    scoring: JudgeReward | None = None
    """Scores answers where the task has no verifier."""

    def context(
        self, *, seed: int, step: int, progress: float, memory: Mapping[str, float] | None = None
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
            recorded=self.task if isinstance(self.task, OfflineAnswers) else None,
            memory=dict(memory or {}),
        )

    def eval_context(self, step: int) -> StepContext:
        """What an evaluation may use: true critiques, and draws that are the same for every run."""
        ctx = self.context(seed=derive_seed(0, "eval"), step=step, progress=0.0)
        return dataclasses.replace(ctx, feedback=self.critic, recorded=None)

    def own_critic(self) -> FeedbackSource:
        """The model as the critic of its own answers, with nothing private to go by."""
        params = SamplingParams(max_tokens=self.config.eval.own_critique, temperature=0.0)
        return SelfCritique(EngineChat(self.engine, self.renderer, params=params))

    def dialogue_settings(self, turns: int) -> DialogueSettings:
        """How dialogues of so many turns are held in an evaluation."""
        chosen = self.config.eval
        return DialogueSettings(
            turns=turns,
            temperature=chosen.temperature,
            window=chosen.didactic_window,
            critique_tokens=chosen.didactic_critique or self.config.sampling.max_tokens,
        )

    def by_turn(
        self, step: int, turns: int, protocols: Sequence[DialogueProtocol], most: int | None = None
    ) -> dict[str, dict[str, Any]]:
        """What dialogues of so many turns give, by generator; see `evaluation.by_turn.dialogue_table`.

        Args:
            step: Steps done so far.
            turns: T ≥ 1.
            protocols: Who speaks between answers; the baselines come with them.
            most: At most so many problems of each generator.
        """
        n = self.config.eval.problems if most is None else min(most, self.config.eval.problems)
        families = self.task.families() if isinstance(self.task, MixtureTask) else {}
        asked = {
            name: self.eval_problems(n, task)
            for name, task in (families or {self.task.name: self.task}).items()
        }
        return family_tables(
            self.task, self.eval_context(step), asked, protocols, self.dialogue_settings(turns)
        )

    def bill(self) -> UsageCost:
        """What the judge of the rewards cost since this was last asked; nothing where there is none."""
        return UsageCost() if self.scoring is None else self.scoring.bill()

    def against_start(self, run: RunDir, evaluation: Evaluation) -> dict[str, Any]:
        """What a judge of rewards makes of these answers beside those of the run's start; else nothing."""
        if self.scoring is None or self.config.reward is None:
            return {}
        return against_start(self.scoring, self.config.reward.pairwise, run, evaluation)

    def eval_problems(self, n: int | None = None, task: Task | None = None) -> Sequence[Problem]:
        """The configured stretch of evaluation problems.

        Args:
            n: How many; None for the configured number.
            task: Whose; None for the run's.

        Raises:
            UsageError: the task has none there.
        """
        chosen, task = self.config.eval, task or self.task
        problems = task.eval_problems(chosen.offset + (n or chosen.problems))[chosen.offset :]
        if not problems:
            raise UsageError(
                f"task {task.name!r} has no evaluation problem after the first {chosen.offset}: "
                "lower eval.offset"
            )
        return problems


def build(
    config: RunConfig,
    *,
    for_training: bool = True,
    home: Path | None = None,
    method: Method | None = None,
) -> RunComponents:
    """Make everything that a config names, the cheap things first.

    Args:
        config: The settings.
        for_training: Also check that the method can learn from what the task offers.
        home: The run directory, where a feedback source keeps what it needs again.
        method: One that no name makes, in place of the configured one.

    Raises:
        UsageError, DataError: a name, file or row that cannot be used; nothing was written.
    """
    if method is None and config.method == DESCENT:
        raise UsageError(
            f"{DESCENT} changes an instruction and no weight, so there is nothing to train, resume or sweep: "
            "run `didact descend`, or go on with `didact descend --resume RUN`"
        )
    method = method or make_method(config.method, config.settings)
    task = run_task(config)
    check_reward(config, task)
    if not isinstance(task, JudgeScoredTask):  # a judge's scores are no proof of a reference
        validate_task(task)
    if for_training:
        check_task(config, method, task)
    engine = make_policy(config, method, for_training=for_training)
    renderer = Renderer(engine.tokenizer, config.model.chat_template, engine.end_ids)
    bind_task(task, config, engine, renderer)
    policy = (engine, renderer)
    scoring = make_scoring(config, surroundings(config, task, policy, home))
    if scoring is not None and isinstance(task, JudgeScoredTask):
        task.bind(scoring)
    didactic = method.didactic or bool(config.eval.didactic_turns)
    critic = make_critic(config, task, policy, home, scoring, didactic=didactic)
    chosen = config.feedback
    feedback = controlled(
        critic, chosen.control, seed=config.seed, share=chosen.wrong_share,
        after_right=chosen.wrong_after_right, verify=task.verify,
    )  # fmt: skip
    parts = RunComponents(config, task, critic, feedback, method, engine, renderer, scoring)
    if for_training:
        check_lengths(parts)
    return parts


def check_task(config: RunConfig, method: Method, task: Task) -> None:
    """Refuse a task from which the method could learn nothing, or whose evaluation nobody could verify.

    Raises:
        DataError: references are missing, or the first training problem's own scores nothing.
        UsageError: evaluation is on, and the task verifies nothing.
    """
    first = task.train_problem(0)
    judged = isinstance(task, JudgeScoredTask)
    if not judged:
        validate_problem(task, first)
    problems = task.train_problems() if isinstance(task, DatasetTask) else [first]
    bare = [problem.id for problem in problems if problem.reference is None]
    if isinstance(method, SFT) and bare:
        raise DataError(
            f"problem {bare[0]!r} has no reference that is an answer, and SFT learns from nothing else: add "
            "one to every row, or take a method that learns from rewards or critiques"
        )
    source = source_settings(config.feedback.source, config.feedback.settings)
    if method.needs_feedback and source.needs_reference and len(bare) == len(problems):
        raise DataError(
            f"no problem of task {task.name!r} has a reference, so feedback.source={config.feedback.source} "
            "could criticise nothing: add references that are answers, or take another source"
        )
    _check_misleading(config, source, task)
    if config.eval.problems and not judged:
        asked = task.eval_problems(1)[0]
        verdict = task.verify(asked, asked.reference or "")
        if verdict.reward is None and verdict.error is None:
            raise UsageError(
                f"task {task.name!r} verifies no answer, so there is no accuracy: set "
                "task.settings.verifier, or switch evaluation off with --set eval.problems=0"
            )


def _check_misleading(config: RunConfig, source: Source, task: Task) -> None:
    """Refuse a control that shows the critic a false solution where that does not change what it says."""
    control = config.feedback.control
    if control in ("wrong", "mixed") and (not source.needs_reference or isinstance(task, CodeTask)):
        raise UsageError(
            f"feedback.control={control} shows the critic a false solution, and feedback.source="
            f"{config.feedback.source} of task {task.name!r} does not go by one: take a source that sees the "
            "reference, as program or teacher, and a task with references that are answers"
        )


def check_lengths(parts: RunComponents) -> None:
    """Refuse a file with a prompt that leaves the model no room for an answer.

    Raises:
        DataError: naming the row, its length and the limit.
    """
    limit, task = parts.engine.max_length, parts.task
    if limit is None or not isinstance(task, DatasetTask):
        return
    only_given = isinstance(parts.method, SFT) and not parts.config.eval.problems
    for problem in task.problems():
        answer = 0 if only_given else parts.config.sampling.max_tokens
        if isinstance(parts.method, SFT) and problem.reference is not None:
            answer = max(answer, len(parts.renderer.answer(problem.reference)))
        length = len(parts.renderer.prompt(problem.messages))
        if length + answer > limit:
            raise DataError(
                f"problem {problem.id!r} has a prompt of {length} tokens, which with {answer} for the answer "
                f"exceeds the model's {limit}: lower sampling.max_tokens, shorten the row, or use a model "
                "with a longer context"
            )


def make_critic(
    config: RunConfig,
    task: Task | None,
    policy: tuple[Engine, Renderer] | None,
    home: Path | None,
    scoring: JudgeReward | None = None,
    *,
    didactic: bool = False,
) -> FeedbackSource:
    """The configured source with its leak guard, without controls.

    Args:
        config: `feedback` says which source, `model` which model a frozen copy is made of, `reward` who
            scores, where the source is what that judge says.
        task: Whose answers are criticised.
        policy: The engine in training; None where nothing is trained.
        home: Where the source keeps what it needs again, as a judge's replies.
        scoring: The judge of the rewards, where one scores here already.
        didactic: The source is a teacher in a dialogue.
    """
    at = surroundings(config, task, policy, home)
    at = dataclasses.replace(at, didactic=didactic)

    def judge() -> FeedbackSource | None:
        return scoring or make_scoring(config, at)

    settings = source_settings(config.feedback.source, config.feedback.settings)
    return LeakGuard(settings.build(dataclasses.replace(at, judge=judge)), config.feedback.leaks)


def surroundings(
    config: RunConfig, task: Task | None, policy: tuple[Engine, Renderer] | None, home: Path | None
) -> BuildContext:
    """What the configured sources are built from; see `make_critic`."""

    def load(model: str | None) -> tuple[Engine, Renderer]:
        """Another model; None is the configured one, as it was before training."""
        chosen = config.model.model_copy(update={"path": model or config.model.path, "lora": None})
        template = config.model.chat_template if model in (None, config.model.path) else {}
        engine = make_engine(chosen)
        return engine, Renderer(engine.tokenizer, template, engine.end_ids)

    return BuildContext(load=load, policy=policy, task=task, seed=config.seed, home=home)


def make_policy(config: RunConfig, method: Method, *, for_training: bool = True) -> Engine:
    """The engine that a run trains on, as `config.engine` says.

    Args:
        config: The settings.
        method: Says whether a reference and a critic are needed.
        for_training: Have a server prove its gradients, and refuse one that cannot clip as configured.

    Raises:
        UsageError: no server answers, or it cannot do what the method needs.
        TrainingGuard: a server's gradients are not what the losses say.
    """
    chosen = config.engine
    if chosen.name != "tinker":
        from didact.engines import vllm

        here = make_engine(config.model, keep_reference=method.needs_reference, critic=method.critic)
        return here if chosen.name == "local" else vllm.connect(here, **chosen.of_vllm())
    from didact.engines.tinker import connect

    model = model_folder(config.model.path)
    at = tinker_address(config, model)
    at = dataclasses.replace(at, probed=at.probed and for_training)
    engine = connect(at, model, critic=method.critic)
    if for_training:
        engine.check_clipping(config.optim.max_grad_norm)
    return engine


def tinker_address(config: RunConfig, model: str) -> Address:
    """Where `config.engine` says that the server is, for a model that is `model` here.

    Raises:
        UsageError: neither the config nor the environment says where.
    """
    chosen = config.engine
    base_url = chosen.base_url or os.environ.get("TINKER_BASE_URL")
    if not base_url:
        raise UsageError(
            "engine: tinker needs to know where the server is: set engine.base_url, as "
            "http://127.0.0.1:8000, or the environment's TINKER_BASE_URL"
        )
    return Address(
        base_url=base_url,
        base_model=chosen.base_model or model,
        api_key=os.environ.get(chosen.api_key_env or "TINKER_API_KEY"),
        timeout=chosen.timeout,
        rank=chosen.rank if config.model.lora is None else config.model.lora.rank,
        seed=config.seed,
        probed=chosen.probe,
        pipelined=chosen.pipelined,
    )


def make_engine(
    config: ModelConfig, *, keep_reference: bool = False, critic: ValueHeadSettings | None = None
) -> LocalEngine | DistributedEngine:
    """An engine with the configured model, and with a value head where `critic` says how it is trained.

    In a process that was launched as one of several it is on all of them.
    """
    lora = None
    if config.lora is not None:
        lora = LoraSettings(**config.lora.model_dump())
    return engine_class().from_pretrained(
        model_folder(config.path),
        lora=lora,
        device=config.device,
        dtype=config.dtype,
        tokens_per_batch=config.tokens_per_batch,
        keep_reference=keep_reference,
        critic=critic,
    )


def model_folder(path: str) -> str:
    """What a configured path names: the bundled model's folder, or the folder or hub id itself."""
    return str(tiny_model()) if path == TINY else path


def tiny_model() -> Path:
    """Where the bundled model lies."""
    return Path(str(resources.files("didact") / "assets" / "tiny"))
