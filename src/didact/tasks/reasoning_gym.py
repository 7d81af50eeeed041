r"""Problems of a reasoning-gym generator (a third party's), by name, or of several in one task.

`reasoning_gym` seeds problem i of a data set with seed + i, so data sets with neighbouring seeds overlap.
Training and evaluation therefore use disjoint ranges of seeds, and a training problem whose question is also
an evaluation question is skipped.

The generators score a whole text. For a model that reasons before it answers, `boxed` asks for the answer in
\boxed{} and scores the content of the last box, as the code of the RLTF paper does, whose reward is
1[right] + 0.1·(1[boxed] − 1) (`format_penalty` 0.1).

reasoning-gym 0.1.25 calls `eval` on an answer in four generators, and sympy's `parse_expr`, which evaluates,
in five. Here the former read literals only, and the latter receive nothing but plain arithmetic.
"""

from __future__ import annotations

import ast
import logging
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic_core import to_jsonable_python

from didact.errors import DataError, UsageError, did_you_mean
from didact.settings import validate_settings
from didact.tasks.base import BaseTask, BaseTaskConfig, Task, Verdict
from didact.tasks.math.answers import boxed
from didact.types import Message, Problem

EVAL_SEED = 1_000_000_007
"""Problem i of the evaluation set is the generator's at EVAL_SEED + i, for every run seed."""
LOG = logging.getLogger("didact")
EVAL_RESERVED = 1_000
"""The questions of this many evaluation problems are kept out of training."""
TRAIN_STRIDE = 10_000_000
"""Run seed s trains on generator seeds s·TRAIN_STRIDE + i, with i below this (s < 100)."""
INSTRUCTION = r"Think step by step, and put only the final answer into \boxed{}."
_ENDLESS = 2**31
_FINITE = {"acre": 2_000, "gsm_symbolic": 100_000, "list_functions": 100_000, "word_ladder": 20_000}
"""Generators that make all problems at once, or refuse to be endless, and the size that they are given; after
that many problems they start again."""
_MAX_SKIPPED, _REPLACEMENTS = 2_000, 5
_SEPARATOR = "::"
EVALUATED = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
"""Generators that call `eval` on an answer."""
PARSED = frozenset(
    {"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"}
)
"""Generators that give an answer to sympy's `parse_expr`."""
MAX_LITERAL_CHARS, MAX_EXPRESSION_CHARS = 4_000, 400

_CHARACTERS = re.compile(r"[0-9a-zA-Z+\-*/^().\s]*")
_WORD = re.compile(r"[a-zA-Z]\w*")
_FUNCTIONS = frozenset({"sin", "cos", "tan", "exp", "log", "ln", "sqrt", "pi"})
_POWER = re.compile(r"\*\*|\^")
_SMALL_POWER = re.compile(
    r"(?:\*\*|\^)\s*(?:\d{1,3}|[a-zA-Z]|\(\s*-?\s*\d{1,3}(?:\s*/\s*\d{1,3})?\s*\))(?![\w.(])"
)
_CHAIN = re.compile(r"\)\s*(?:\*\*|\^)|(?:\*\*|\^)\s*(?:\w+|\([^()]*\))\s*(?:\*\*|\^)")


class ReasoningGymTaskConfig(BaseTaskConfig):
    r"""A generator. All other keys are settings of the generator itself, as min_word_len: 5."""

    model_config = ConfigDict(extra="allow")

    generator: str
    """A registered generator, as spell_backward."""
    dense: bool = False
    """The generator's own partial score as reward, in place of 1 for a full score and 0 for less. `correct`
    means a full score either way."""
    boxed: bool = False
    r"""Ask for the answer in a \boxed{} and score the content of the last one."""
    instruction: str = INSTRUCTION
    """Follows every question of a boxed task."""
    format_penalty: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Subtracted from the reward of an answer without a box."""

    def build(self, seed: int) -> ReasoningGymTask:
        return ReasoningGymTask(self, seed=seed)


class ReasoningGymTask(BaseTask):
    """The problems of one generator.

    Args:
        seed: Run seed in [0, 100): which training problems are drawn.
        prefix: Of all problem ids.

    Raises:
        UsageError: an unknown generator or setting (with the nearest valid name), or a value out of range.
    """

    critic_name = "puzzle"
    packages = ("reasoning-gym",)

    def __init__(self, config: ReasoningGymTaskConfig, *, seed: int = 0, prefix: str = "") -> None:
        if not 0 <= seed < 100:
            raise UsageError(f"reasoning-gym tasks take a seed from 0 to 99, not {seed}")
        self.name, self.dense, self.boxed = config.generator, config.dense, config.boxed
        self.instruction, self.format_penalty = config.instruction.strip(), config.format_penalty
        self.config, self._prefix = dict(config.model_extra or {}), prefix
        self._size = _FINITE.get(self.name, _ENDLESS)
        self._eval_set = self._create(EVAL_SEED)
        self._train_set = self._create(seed * TRAIN_STRIDE)
        reject_code(self.name, self._eval_set)
        self._next_index = 0
        self._entries: dict[str, Any] = {}
        self._train: list[Problem] = []

    def train_problem(self, index: int) -> Problem:
        skipped = 0
        while len(self._train) <= index:
            problem = self._problem(self._train_set, self._next_index % self._size, "train")
            self._next_index += 1
            if problem.question not in self._eval_by_question:
                self._train.append(problem)
                skipped = 0
            elif (skipped := skipped + 1) >= _MAX_SKIPPED:
                raise DataError(
                    f"{self.name} with {self.config}: the last {skipped} questions are all evaluation "
                    "questions, so none is left to train on; choose settings with more variety"
                )
        return self._train[index]

    def eval_problems(self, n: int) -> Sequence[Problem]:
        if n > EVAL_RESERVED:
            raise UsageError(f"at most {EVAL_RESERVED} evaluation problems are kept apart, not {n}")
        return list(self._eval_by_question.values())[:n]

    def final_answer(self, answer: str) -> str | None:
        """The scored part of a text: all of it, or the content of its last box; None without one."""
        return boxed(answer) if self.boxed else answer.strip()

    def verify(self, problem: Problem, answer: str) -> Verdict:
        final, reference = self.final_answer(answer), problem.reference
        if self.boxed and reference is not None:
            reference = boxed(reference)
        if final is None:
            return Verdict(0.0 - self.format_penalty, False)
        if not may_score(self.name, final, reference):
            return Verdict(0.0, False)
        own = {"question": problem.question, "answer": reference, "metadata": problem.metadata}
        # Some scorers distinguish a tuple from a list, which a problem's JSON line does not.
        entry = self._entries.get(problem.id, own)
        try:
            score = float(self._eval_set.score_answer(final, entry))
        except Exception:  # a third party's scorer meets a model's text: malformed means wrong
            score = 0.0
        score = 0.0 if math.isnan(score) else score
        correct = score >= 1.0
        return Verdict(min(max(score, 0.0), 1.0) if self.dense else float(correct), correct)

    @cached_property
    def _eval_pool(self) -> list[Problem]:
        return [self._problem(self._eval_set, i, "eval") for i in range(EVAL_RESERVED)]

    @cached_property
    def _eval_by_question(self) -> dict[str, Problem]:
        return {p.question: p for p in self._eval_pool}

    def _problem(self, data_set: Any, index: int, split: str) -> Problem:
        for k in range(_REPLACEMENTS + 1):
            place = (index + k * EVAL_RESERVED) % self._size
            try:
                entry = data_set[place]
                break
            except Exception as error:  # a third party's generator meets a seed or settings it cannot fulfil
                fault = f"{self.name} cannot make problem {place} with the settings {self.config}: {error}"
                LOG.warning("%s; problem %d takes its place", fault, place + EVAL_RESERVED)
        else:
            raise UsageError(fault)
        identity = f"{self._prefix}{self.name}/{split}/{data_set.seed + place}"
        self._entries[identity] = entry
        question = entry["question"]
        # Some generators only score answers and have none themselves.
        reference = None if entry["answer"] is None else str(entry["answer"])
        if self.boxed:
            question = f"{question.rstrip()}\n\n{self.instruction}"
            reference = None if reference is None else rf"\boxed{{{reference}}}"
        return Problem(
            id=identity,
            messages=(Message(role="user", content=question),),
            reference=reference,
            metadata=to_jsonable_python(entry["metadata"], inf_nan_mode="strings", fallback=repr),
        )

    def _create(self, seed: int) -> Any:
        rg = _import_reasoning_gym()
        if self.name not in rg.factory.DATASETS:
            raise UsageError(
                f"unknown reasoning-gym generator {self.name!r}: "
                + did_you_mean(self.name, rg.factory.DATASETS)
            )
        try:
            return rg.create_dataset(self.name, seed=seed, size=self._size, **self.config)
        except (TypeError, AssertionError, ValueError) as error:
            valid = set(rg.factory.DATASETS[self.name][1].__dataclass_fields__) - {"seed", "size"}
            wrong = next((k for k in self.config if k not in valid), None)
            if wrong is not None:
                raise UsageError(
                    f"{self.name} has no setting {wrong!r}: {did_you_mean(wrong, valid)}"
                ) from None
            raise UsageError(f"{self.name} refuses the settings {self.config}: {error}") from error


class MixtureTaskConfig(BaseTaskConfig):
    """Generators by name: some to train on in turn, others for evaluation only."""

    parts: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    """Generator → its settings, as those of `ReasoningGymTaskConfig`: the generators that are trained on. A
    name may be any if the settings name the `generator`."""
    held_out: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """The same for generators that are only evaluated on."""

    def build(self, seed: int) -> MixtureTask:
        return MixtureTask(self, seed=seed)


class MixtureTask(BaseTask):
    """Problems of several generators.

    Training, and `eval_problems`, take the trained generators in turn. `families` has a task for each
    generator, those that are held out too.
    """

    name = "mixture"
    packages = ReasoningGymTask.packages

    def __init__(self, config: MixtureTaskConfig, *, seed: int = 0) -> None:
        parts, others = config.parts, config.held_out
        if both := sorted(parts.keys() & others.keys()):
            raise UsageError(f"task 'mixture': {both[0]!r} is trained on and held out: leave it out of one")
        if odd := [name for name in (*parts, *others) if _SEPARATOR in name]:
            raise UsageError(f"task 'mixture': the name {odd[0]!r} holds {_SEPARATOR!r}: choose another")
        self.held_out_families = tuple(others)
        self._tasks = dict[str, ReasoningGymTask]()
        for name, settings in {**parts, **others}.items():
            where, full = f"task 'mixture', part {name!r}", {"generator": name, **settings}
            part = validate_settings(ReasoningGymTaskConfig, full, where)
            self._tasks[name] = ReasoningGymTask(part, seed=seed, prefix=name + _SEPARATOR)
        self._trained = [self._tasks[name] for name in parts]

    def train_problem(self, index: int) -> Problem:
        """Problem i // P of part i mod P, for P parts."""
        turn, part = divmod(index, len(self._trained))
        return self._trained[part].train_problem(turn)

    def eval_problems(self, n: int) -> Sequence[Problem]:
        """The parts' evaluation problems in turn, n in all; none that is held out."""
        each = -(-n // len(self._trained))
        found = [part.eval_problems(each) for part in self._trained]
        return [problem for row in zip(*found, strict=False) for problem in row][:n]

    def families(self) -> Mapping[str, Task]:
        return self._tasks

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Score one answer by its own generator."""
        return self._tasks[problem.id.partition(_SEPARATOR)[0]].verify(problem, answer)


def reject_code(name: str, data_set: Any) -> None:
    """Replace `eval` in the module of a generator's data set by `read_literal`, for the whole process."""
    if name in EVALUATED:
        vars(sys.modules[type(data_set).__module__])["eval"] = read_literal


def may_score(name: str, answer: str, reference: str | None) -> bool:
    """The generator's scorer may read this answer."""
    return name not in PARSED or answer == reference or is_arithmetic(answer)


def read_literal(text: str) -> Any:
    """The value of a Python literal.

    Raises:
        ValueError: the text is no literal, or too long.
    """
    if len(text) > MAX_LITERAL_CHARS or text.count("[") + text.count("(") + text.count("{") > 200:
        raise ValueError(f"a literal of {len(text)} characters is too long")
    try:
        return ast.literal_eval(text)
    except (SyntaxError, MemoryError, RecursionError, TypeError) as error:
        raise ValueError(f"not a literal: {error}") from None


def is_arithmetic(text: str) -> bool:
    """The text is plain arithmetic that is safe and fast to evaluate.

    >>> is_arithmetic("(8 - 2)*4"), is_arithmetic("x**2/2 + sin(x) + C")
    (True, True)
    >>> is_arithmetic("__import__('os')"), is_arithmetic("9**9**9"), is_arithmetic("x.diff")
    (False, False, False)
    """
    if len(text) > MAX_EXPRESSION_CHARS or not _CHARACTERS.fullmatch(text):
        return False
    if re.search(r"\.\s*[a-zA-Z]|[a-zA-Z)]\s*\.", text):
        return False  # an attribute of something
    if any(len(word) > 1 and word not in _FUNCTIONS for word in _WORD.findall(text)):
        return False
    powers = len(_POWER.findall(text))
    return powers == len(_SMALL_POWER.findall(text)) and not _CHAIN.search(text)


def generator_names() -> list[str]:
    """The names of all reasoning-gym generators, sorted."""
    return sorted(_import_reasoning_gym().factory.DATASETS)


def _import_reasoning_gym() -> Any:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import reasoning_gym
        import reasoning_gym.factory
    except ImportError as error:
        raise UsageError("reasoning-gym is not installed: pip install 'didact-rl[tasks]'") from error
    return reasoning_gym
