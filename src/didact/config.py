"""A run's settings: one YAML file, the same keys on the command line as `--set a.b=c`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from didact.controls import Control, parse_control
from didact.engines.base import AdamParams, SamplingParams
from didact.errors import DataError, DidactError, UsageError
from didact.settings import Section, validate_settings

Positive = Annotated[int, Field(ge=1)]


class TaskConfig(Section):
    """The problems."""

    name: str = "spell_backward"
    """A reasoning-gym generator, another name of docs/your-data.md, or file.py:Class."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The task's own settings: a generator's, or the file and the verifier of the task prompts."""


class FeedbackConfig(Section):
    """The source of critiques."""

    source: str = "program"
    """A name of docs/feedback.md, or file.py:Class."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The source's own settings."""
    control: Annotated[SerializeAsAny[Control] | None, BeforeValidator(parse_control)] = None
    """What the method reads in place of the critique: a control's name, or {name: mixed, share: 0.3}; see
    `didact.controls`. Evaluation is not affected."""
    leaks: Literal["keep", "redact", "drop", "fail"] = "keep"
    """What happens to a critique that states the answer."""
    thoughts: bool = False
    """Show a critic the policy's thoughts before its answer too; a program reads the answer alone."""
    max_failed: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Stop, resumably, once more than this share of the last 64 critiques failed."""


class RewardConfig(Section):
    """The judge that scores the answers of a task without a verifier, as `writing`."""

    source: str
    """judge:local or judge:openai; see docs/feedback.md."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The judge's own settings: its model or server, `good` and `max_chars` of the rubric."""
    pairwise: bool = False
    """In evaluation, also have the judge compare answers with those of the start, pair by pair in both
    orders: two more questions a problem."""
    max_failed: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Stop, resumably, once more than this share of the last 64 scores failed."""


class LoraConfig(Section):
    """Train an adapter in place of all weights."""

    rank: Positive = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    target_modules: str | list[str] = "all-linear"


class ModelConfig(Section):
    """Which model is trained, and where."""

    path: str = "tiny"
    """"tiny" (bundled), a local folder, or a hub id."""
    lora: LoraConfig | None = None
    """None trains all weights."""
    chat_template: dict[str, Any] = Field(default_factory=dict)
    """Settings of the model's own chat template, as {enable_thinking: false} for Qwen3."""
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    tokens_per_batch: Positive = 8192
    """Padded tokens that a forward pass may hold; smaller needs less memory and gives the same step."""


class EngineConfig(Section):
    """Where the model is trained and sampled. The name alone is enough: `engine: tinker`."""

    name: str = "local"
    """local, tinker, vllm, or file.py:Class. See docs/scaling.md."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The engine's own settings, as base_url."""


class SamplingConfig(Section):
    """How the policy is sampled in training."""

    max_tokens: Positive = 256
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    stop: list[str] = Field(default_factory=list)
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Above 1, tokens of the prompt and the answer are drawn less often (CTRL, arXiv:1909.05858). Log-probs
    stay those of the model itself, as with top_p."""
    min_tokens: Annotated[int, Field(ge=0)] = 0
    """This many tokens at least come before an end of turn or the end of a stop string."""

    @model_validator(mode="after")
    def _has_room(self) -> SamplingConfig:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens is at most max_tokens, {self.max_tokens}, not {self.min_tokens}")
        return self

    def params(self, **changes: Any) -> SamplingParams:
        """As the engine wants it, with some values changed."""
        values = {**self.model_dump(), **changes}
        return SamplingParams(**{**values, "stop": tuple(values["stop"])})


class OptimConfig(Section):
    """AdamW and its schedule."""

    lr: Annotated[float, Field(gt=0)] = 2e-5
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the rate falls to 0 over the run's steps."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    passes: Positive = 1
    """Times that each batch's rows are gone over; above 1 give the method a `clip`."""
    minibatches: Positive = 1
    """Parts of a batch, drawn anew each time, with an optimizer step for each."""

    def at(self, step: int, progress: float) -> AdamParams:
        """The settings of one step.

        Args:
            step: Steps done so far.
            progress: Share of the run that is done, in [0, 1].
        """
        warmup = min(1.0, (step + 1) / (self.warmup_steps + 1))
        decay = {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}[
            self.schedule
        ]
        beta1, beta2 = self.betas
        return AdamParams(
            lr=self.lr * warmup * decay,
            beta1=beta1,
            beta2=beta2,
            eps=self.eps,
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
        )


class DialogueEvalConfig(Section):
    """Dialogues after training, counted turn by turn: with the teacher, with the model's own critiques, with
    "try again" and with independent answers; see evaluation/by_turn.py."""

    turns: Positive = 10
    """Answers per dialogue."""
    problems: Positive = 100
    """Maximum number of problems of each generator."""
    window: Positive | None = None
    """Number of earlier exchanges in the prompt; null for all that fit the model."""
    critique_tokens: Positive | None = None
    """Token limit of a self-critique; null for sampling.max_tokens."""


class EvalConfig(Section):
    """How a run is evaluated: first answers without feedback, then second ones with it."""

    problems: Annotated[int, Field(ge=0)] = 200
    """0 switches evaluation off."""
    offset: Annotated[int, Field(ge=0)] = 0
    """Skip this many problems: those used to choose settings should not be reported."""
    every: Annotated[int, Field(ge=0)] = 0
    """Also evaluate every this many steps; 0 for only before and after training."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 is greedy."""
    own_critique: Annotated[int, Field(ge=0)] = 0
    """Before and after training, also let the model criticise its own wrong answers, in so many tokens at
    most, and count the second ones; 0 for not. Nothing private helps it then."""
    feedback: bool = True
    """Also have wrong answers criticised, and count the second ones; a judge's critiques have a price."""
    dialogue: DialogueEvalConfig | None = None
    """Also hold dialogues after training; null for none."""


def _by_name(value: Any) -> Any:
    """A section for its bare name."""
    return {"name": value} if isinstance(value, str) else value


class RunConfig(Section):
    """All settings of a run. `didact train METHOD --dry-run` shows the defaults."""

    method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    """The method's own settings."""
    model: ModelConfig = ModelConfig()
    engine: Annotated[EngineConfig, BeforeValidator(_by_name)] = EngineConfig()
    task: TaskConfig = TaskConfig()
    feedback: FeedbackConfig = FeedbackConfig()
    reward: RewardConfig | None = None
    """Only for a task without a verifier of its own."""
    sampling: SamplingConfig = SamplingConfig()
    optim: OptimConfig = OptimConfig()
    eval: EvalConfig = EvalConfig()
    problems_per_step: Positive = 16
    steps: Positive = 100
    """At most this many steps …"""
    max_sampled_tokens: Positive | None = None
    """… and no new step once the policy has generated this many tokens."""
    checkpoint_every: Annotated[int, Field(ge=0)] = 25
    """Steps between checkpoints; 0 for only the last."""
    inspect: Annotated[int, Field(ge=0)] = 0
    """Rollouts a step whose tokens' log-probs are measured right before and right after the update, for
    `didact inspect`; each costs two forward passes."""
    seed: Annotated[int, Field(ge=0, lt=100)] = 0

    def progress(self, step: int, sampled_tokens: int) -> float:
        """The share of the run that is done, by steps or by tokens, whichever is further, in [0, 1]."""
        budget = self.max_sampled_tokens
        return min(1.0, max(step / self.steps, sampled_tokens / budget if budget else 0.0))

    def to_yaml(self) -> str:
        """The whole config, every default spelt out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_config(
    method: str, file: Path | None = None, overrides: Sequence[str] = (), **direct: Any
) -> RunConfig:
    """A config from defaults, then a YAML file, then keyword values, then `a.b=c` overrides.

    Args:
        method: A method's name; a file that names another is refused.
        file: YAML with any of RunConfig's keys.
        overrides: `dotted.key=value`, values in YAML.
        **direct: Dotted keys with "__" for ".", as task__name="gcd"; None values are left out. Another
            task or feedback source than the file's starts without the file's settings of it.

    Raises:
        UsageError: an unknown key (with the nearest valid one) or a value of the wrong type.
        DataError: the file cannot be read as YAML.
    """
    values = {} if file is None else read_yaml(file)
    named = values.setdefault("method", method)
    if named != method:
        raise UsageError(f"{file} is a config for {named!r}, not {method!r}: run `train {named}`")
    return _changed(values, overrides, direct)


def borrow_config(
    method: str, file: Path | None = None, overrides: Sequence[str] = (), **direct: Any
) -> RunConfig:
    """The same from a file of any method, without that method's own settings; see `load_config`."""
    values = {} if file is None else read_yaml(file)
    if values.get("method", method) != method:
        values.pop("settings", None)
    return _changed({**values, "method": method}, overrides, direct)


def _changed(values: dict[str, Any], overrides: Sequence[str], direct: Mapping[str, Any]) -> RunConfig:
    for key, value in direct.items():
        if value is not None:
            if key == "task__name":
                _forget_other(values, "task", "name", TaskConfig().name, value)
            if key == "feedback__source":
                _forget_other(values, "feedback", "source", FeedbackConfig().source, value)
            _put(values, key.split("__"), value)
    for override in overrides:
        key, value = key_value("--set", override, "optim.lr=1e-4")
        _put(values, key.split("."), value)
    return parse_config(values)


def key_value(option: str, word: str, example: str) -> tuple[str, Any]:
    """The key and the YAML value of a word such as "lr=1e-4" of an option of the command line.

    Raises:
        UsageError: it has no "=" (with the example of a good one), or its value is no YAML.
    """
    key, equals, value = word.partition("=")
    if not equals:
        raise UsageError(f"{option} {word!r}: write it as key=value, as in {option} {example}")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or str(error)
        raise UsageError(f"{option} {word!r}: the value is not valid YAML: {reason}") from None


def parse_config(values: Mapping[str, Any]) -> RunConfig:
    """Check plain values; a wrong key or value is a UsageError that names the nearest valid key."""
    return validate_settings(RunConfig, values, "config")


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML mapping from a file, or a DataError that names file and line."""
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no config file {str(file)!r}") from None
    except OSError as error:
        raise UsageError(f"the config {str(file)!r} cannot be read: {error.strerror}; name a file") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{file} is not valid YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise DataError(f"{file} must hold `key: value` pairs, not a {type(values).__name__}")
    return values


def is_stored(config: RunConfig, file: Path) -> bool:
    """Does a stored file say this config? Keys that it lacks, being older, have today's defaults."""
    try:
        return parse_config(read_yaml(file)) == config
    except DidactError:  # torn, or of a version that knew other keys
        return False


def _forget_other(values: dict[str, Any], section: str, key: str, default: str, name: str) -> None:
    """Drop the settings that a file has for another task or source than this one."""
    given = values.get(section)
    if isinstance(given, Mapping) and given.get(key, default) != name:
        values[section] = {k: value for k, value in given.items() if k != "settings"}


def _put(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a nested value; a section that is a bare name, as `engine: tinker`, keeps it as its key `name`."""
    *sections, key = path
    for name in sections:
        inner = values.get(name)
        inner = {"name": inner} if isinstance(inner, str) else inner
        values[name] = inner = dict(inner) if isinstance(inner, Mapping) else {}
        values = inner
    if isinstance(value, str) and isinstance(values.get(key), Mapping):
        _put(values, [key, "name"], value)
    else:
        values[key] = value
