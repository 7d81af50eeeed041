"""Settings of feedback sources, each with the source that it builds; `didact.registry.SOURCES` names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field

from didact.annotation.human import HumanFeedback
from didact.config import Positive
from didact.distributed import process_group
from didact.engines.base import Engine, SamplingParams
from didact.errors import UsageError, did_you_mean
from didact.feedback.code import CodeCritic
from didact.feedback.judge import make_judge
from didact.feedback.model_critic import DIALOGUE_SLOTS, TEACHER_SLOTS, DialogueTeacher, ModelCritic
from didact.feedback.program import OUTCOME_ONLY, Level, OutcomeOnlyTeacher, ProgramCritic
from didact.feedback.puzzle_critic import MISTAKES, PuzzleCritic
from didact.feedback_source import FeedbackSource
from didact.llm.budget import Budget, UsageTracker
from didact.llm.cache import ChatCache
from didact.llm.chat import ChatModel, MainProcessChat
from didact.llm.openai_chat import OpenAIChat, OpenAISettings
from didact.prompts import Prompt, load_prompt, read_prompt
from didact.rendering.renderer import Renderer
from didact.rollouts.engine_chat import EngineChat
from didact.settings import Section
from didact.tasks.base import BaseTask
from didact.types import FeedbackSourceName


@dataclass(frozen=True)
class BuildContext:
    """What a source is built from."""

    load: Callable[[str | None], tuple[Engine, Renderer]]
    """Makes an engine and its renderer from a model's name or path; None is the policy's own."""
    policy: tuple[Engine, Renderer] | None
    """The engine in training and its renderer; None where nothing is trained."""
    task: BaseTask | None
    """The task whose answers are criticised."""
    seed: int
    home: Path | None
    """A folder for a source's files, as a judge's replies; made when needed."""
    in_dialogue: bool = False
    """The source is a teacher in a dialogue; see `Method.uses_dialogue_teacher`."""
    judge: Callable[[], FeedbackSource | None] = lambda: None
    """Returns the judge of the rewards as a feedback source; None without a judge."""
    loaded: Mapping[str, tuple[Engine, Renderer]] = field(default_factory=dict)
    """What `load` has made, by path."""


class Source(Section):
    """Settings of a source."""

    @property
    def needs_reference(self) -> bool:
        """Whether it cannot criticise a problem without a reference."""
        return False

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that its critiques depend on; a run is not resumed when they have changed."""
        return ()

    def build(self, at: BuildContext) -> FeedbackSource:
        """The source."""
        raise NotImplementedError


class ProgramSource(Source):
    """A program: the code task's tests, or a comparison with the reference."""

    level: Level | None = None
    """Detail of the critique: verdict, hint or reveal; null is hint for `rl2f` and reveal otherwise."""
    lint: bool = False
    """Code only: add a linter's messages, where ruff is installed."""
    spans: bool = True
    """Also mark the elements of the answer that the critique is about."""

    @property
    def needs_reference(self) -> bool:
        return True

    def build(self, at: BuildContext) -> FeedbackSource:
        level = self.level or (Level.HINT if at.in_dialogue else Level.REVEAL)
        if self.lint and (at.task is None or at.task.critic_name != "tests"):
            raise UsageError(
                "feedback.settings.lint: only the task 'code' has programs to lint: leave it out"
            )
        task: Any = at.task
        kind = "reference" if task is None else task.critic_name
        if kind == "tests":
            return CodeCritic(task, level, linter=self.lint, spans=self.spans)
        if kind == "puzzle" and task.name in MISTAKES:
            return PuzzleCritic(task, level, spans=self.spans)
        if kind not in PROGRAM_CRITICS:
            raise UsageError(f"{type(task).__name__}.critic_name: {did_you_mean(kind, PROGRAM_CRITICS)}")
        return ProgramCritic(level, spans=self.spans)


PROGRAM_CRITICS = ("reference", "tests", "puzzle")
"""Values of `BaseTask.critic_name`."""


class LocalModelConfig(Source):
    """Settings of a source that is a model in this process."""

    max_tokens: Positive = 256
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 is greedy."""
    stop: list[str] = Field(default_factory=list)
    """Strings that end a reply; not part of it."""

    @property
    def elsewhere(self) -> str:
        """The cure where no policy is trained, for error messages."""
        return "name a model"

    def policy(self, at: BuildContext) -> ChatModel:
        """The policy as it is now."""
        if at.policy is None:
            raise UsageError(f"nothing is trained here, so there is no policy to ask: {self.elsewhere}")
        return self._chat(at, at.policy, "policy")

    def frozen(self, at: BuildContext, model: str | None) -> ChatModel:
        """Another model; None is the policy as it was before training."""
        return self._chat(at, at.load(model), model or "frozen policy")

    def _chat(self, at: BuildContext, policy: tuple[Engine, Renderer], name: str) -> ChatModel:
        params = SamplingParams(
            max_tokens=self.max_tokens, temperature=self.temperature, stop=tuple(self.stop)
        )
        return EngineChat(*policy, name=name, params=params, seed=at.seed)


class JudgeOptions(Source):
    """Settings of every judge."""

    output: Literal["text", "json", "spans"]
    """"json" asks for score, label and spans too, which small models cannot write; "spans" for a critique and
    the good and poor passages that it is about."""
    reasoning: bool = True
    """Of "spans": a critique comes before the passages."""
    privileged: bool = False
    """Show the reference."""

    @property
    def needs_reference(self) -> bool:
        return self.privileged

    def judge(self, chat: ChatModel) -> FeedbackSource:
        """The judge that this model is."""
        return make_judge(chat, self.output, privileged=self.privileged, reasoning=self.reasoning)


class LocalJudgeSource(LocalModelConfig, JudgeOptions):
    """A judge in this process."""

    model: str | None = None
    """A folder or hub id; None is a frozen copy of the model that is trained."""
    output: Literal["text", "json", "spans"] = "text"

    def build(self, at: BuildContext) -> FeedbackSource:
        return self.judge(self.frozen(at, self.model))


class OpenAIServerConfig(OpenAISettings, Source):
    """A model behind an OpenAI-compatible server, with a cache of its replies and a budget."""

    section: ClassVar[str] = "feedback"
    """Where these settings stand in a config, for messages."""
    ledger: ClassVar[str] = "budget.json"
    """The file in `replies/` that keeps what was spent."""

    max_cost: Annotated[float, Field(gt=0)] | None = None
    """USD that may be spent, for a run directory in sum: with every resumption, `eval` and `critique run`."""
    max_requests: Positive | None = None
    """Requests that may be sent, in sum likewise."""
    cache: Path | None = None
    """Where replies are kept; None is `replies/` in the run directory."""

    def chat(self, at: BuildContext) -> ChatModel:
        """The server as a chat model; what is spent is kept in `replies/` of a run directory.

        Raises:
            UsageError: no server that could be asked, no key, or a limit in USD without prices.
            DataError: the file of what was spent is damaged.
        """
        self._check_prices()
        replies = None if at.home is None else at.home / "replies"
        chat = Budget(
            OpenAIChat(self),
            max_requests=self.max_requests,
            max_cost_usd=self.max_cost,
            tracker=None if replies is None else UsageTracker(replies / self.ledger),
            batch_size=2 * self.concurrency,
        )
        folder = self.cache or replies
        whole = chat if folder is None else ChatCache(chat, folder)
        return MainProcessChat(whole) if process_group().world_size > 1 else whole

    def _check_prices(self) -> None:
        if (self.price_in is None) != (self.price_out is None):
            raise UsageError(
                f"{self.section}.settings: price_in and price_out (--price-in, --price-out) are given "
                "together or not at all"
            )
        if self.price_in is None and self.max_cost is not None:
            raise UsageError(
                f"{self.section}.settings.max_cost (--max-cost) needs to know what the judge costs: give "
                "--price-in and --price-out, in USD for a million tokens read and written, or limit "
                "--max-requests"
            )


class ServerJudgeSource(OpenAIServerConfig, JudgeOptions):
    """A judge behind an OpenAI-compatible server."""

    output: Literal["text", "json", "spans"] = "json"

    def build(self, at: BuildContext) -> FeedbackSource:
        return self.judge(self.chat(at))


class TeacherSource(LocalModelConfig):
    """A model with private information that is instructed not to reveal it."""

    who: Literal["auto", "policy", "frozen"] = "auto"
    """The policy as it is now, or a frozen model; "auto" is frozen for `rl2f` and the policy elsewhere."""
    model: str | None = None
    """Of a frozen teacher: a folder or hub id; None is the model that is trained, as it started."""
    view: Literal["auto", "answer", "dialogue"] = "auto"
    """It sees the latest answer alone, or the dialogue before it too; "auto" is the dialogue for `rl2f`."""
    private: Literal["reference", "program", "both"] = "reference"
    """Its private information: the reference, a program's critique (a code task's tests), or both."""
    prompt: Path | None = None
    """A text file with another wording of what it is asked, as for a small model: {answer}, {question} and
    {reference} stand for these; for a teacher with notes on a dialogue {private} and {dialogue} do."""

    @property
    def elsewhere(self) -> str:
        return "name the teacher's model with --judge-model, or say feedback.settings.who=frozen"

    @property
    def needs_reference(self) -> bool:
        return self.private != "program"

    @property
    def files(self) -> tuple[Path, ...]:
        return () if self.prompt is None else (self.prompt,)

    def build(self, at: BuildContext) -> FeedbackSource:
        frozen = self.who == "frozen" or (self.who == "auto" and at.in_dialogue)
        chat = self.frozen(at, self.model) if self.model or frozen else self.policy(at)
        whole = self.view == "dialogue" or (self.view == "auto" and at.in_dialogue)
        if not whole and self.private == "reference":
            return ModelCritic(chat, "teacher", self._asked("teacher_v1", TEACHER_SLOTS), private=True)
        program = None if self.private == "reference" else ProgramSource(level=Level.REVEAL).build(at)
        asked = self._asked("teacher_dialogue_v1", DIALOGUE_SLOTS)
        return DialogueTeacher(chat, reference=self.private != "program", program=program, prompt=asked)

    def _asked(self, usual: str, slots: Sequence[str]) -> Prompt:
        return load_prompt(usual) if self.prompt is None else read_prompt(self.prompt, slots)


class RetrySource(Source):
    """A fixed sentence after every wrong answer."""

    text: Annotated[str, Field(min_length=1)] = OUTCOME_ONLY

    def build(self, at: BuildContext) -> FeedbackSource:
        return OutcomeOnlyTeacher(self.text)


class SelfSource(LocalModelConfig):
    """The policy as its own critic, without private information."""

    @property
    def elsewhere(self) -> str:
        return (
            "name who is to criticise, as with --feedback judge:local --judge-model RUN/model, which shows "
            "the model nothing private either"
        )

    def build(self, at: BuildContext) -> FeedbackSource:
        return ModelCritic(self.policy(at))


class RewardSource(Source):
    """The critique that the judge of the rewards wrote with its score: one request for both."""

    def build(self, at: BuildContext) -> FeedbackSource:
        judge = at.judge()
        if judge is None:
            raise UsageError(
                "feedback.source=reward is the critique of the judge that scores the answers, and this run "
                "has none: name a judge with reward.source, as judge:local, or take another feedback.source"
            )
        return judge


class RecordedSource(Source):
    """Recorded critiques of exactly this answer, from a data file or a run directory."""

    said_by: ClassVar[tuple[str, ...]] = get_args(FeedbackSourceName)
    """The kinds of author that are used."""

    path: Path
    """A data file of `didact data import`, or a run directory."""
    max_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Largest share of the critiques that one author may have."""
    quarantined: list[str] = Field(default_factory=list)
    """Authors whose critiques are not used."""

    @property
    def files(self) -> tuple[Path, ...]:
        if self.path.is_dir():
            return (self.path / "rollouts.jsonl", self.path / "feedback.jsonl")
        return (self.path,)

    def build(self, at: BuildContext) -> FeedbackSource:
        return HumanFeedback(
            self.path,
            seed=at.seed,
            max_share=self.max_share,
            quarantined=self.quarantined,
            said_by=self.said_by,
        )


class HumanSource(RecordedSource):
    """Recorded critiques by people only."""

    said_by: ClassVar[tuple[str, ...]] = ("human",)
