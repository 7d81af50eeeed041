"""Python functions to write, verified by running them against tests in an OS sandbox.

The program runs inside the sandbox and its values are judged outside: the sandbox receives one call at a time
and its answers, plain data, are compared here (`unit_tests`, `values`). Expected values never enter it. A
program that patches the runner, forges answers or ends the process can only claim a value for a call, and
that value still has to be right.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from didact.distributed import on_main_process
from didact.errors import DataError
from didact.tasks.base import BaseTaskConfig, Verdict
from didact.tasks.code.load import load, program_in
from didact.tasks.code.unit_tests import UnitTest, parse_test
from didact.tasks.code.values import Plain, Raised, read_value, shown
from didact.tasks.dataset_task import DatasetTask, EvalFraction, shipped, split_problems
from didact.tasks.sandbox.probe import choose_backend
from didact.tasks.sandbox.serve import Limits
from didact.tasks.sandbox.session import SandboxError, Session, Stop, Stopped
from didact.types import Problem

CACHED_REPORTS = 4096
"""Reports that are kept, so that a critic does not run again what the verifier has run."""


class Outcome(StrEnum):
    """How a program, or one test of it, ended."""

    PASSED = "passed"
    WRONG = "wrong"
    """It returned another value."""
    RAISED = "raised"
    """A test's call raised."""
    UNLOADABLE = "unloadable"
    """The program raised before any test, or does not compile."""
    NO_PROGRAM = "no program"
    """The answer holds no program."""
    TIME = "time"
    CPU = "cpu"
    OUTPUT = "output"
    ANSWER = "answer"
    """It sent a malformed or too long answer."""
    EXIT = "exit"
    """Its process ended before it answered."""
    BROKEN = "broken"
    """The sandbox failed, so the program was not judged."""


@dataclass(frozen=True)
class UnitTestResult:
    """A test whose call returned a value or raised."""

    test: UnitTest
    shown: bool
    """It is one of the examples in the prompt."""
    passed: bool
    got: str | Raised
    """The returned value as a short text (the value itself can be large), or the exception."""


@dataclass(frozen=True)
class CodeReport:
    """The result of running a program.

    Attributes:
        program: Its source; None if the answer holds none.
        tests: All tests, the examples of the prompt first.
        stop: Why the program ended before the remaining tests.
        detail: As "2 s" or "signal 11".
        broken: What is wrong with the sandbox, or with the problem's own setup.
        shown_tests: How many of `tests` are examples of the prompt.
    """

    program: str | None
    tests: tuple[UnitTest, ...]
    results: tuple[UnitTestResult, ...] = ()
    raised: Raised | None = None
    stop: Stop | None = None
    detail: str = ""
    broken: str | None = None
    shown_tests: int = 0
    loaded: bool = False

    @property
    def passed(self) -> int:
        """The number of passed tests."""
        return sum(t.passed for t in self.results)

    @property
    def correct(self) -> bool:
        """All tests passed."""
        return self.broken is None and bool(self.tests) and self.passed == len(self.tests)

    @property
    def share(self) -> float:
        """The share of passed tests, in [0, 1], among those that the prompt does not show, or among all if it
        shows all. A test that was not reached did not pass."""
        hidden = len(self.tests) - self.shown_tests
        passed = sum(t.passed for t in self.results if not (hidden and t.shown))
        return passed / max(hidden or len(self.tests), 1)

    @property
    def first_failure(self) -> int | None:
        """The index of the first test that did not pass, or None."""
        failed = (index for index, result in enumerate(self.results) if not result.passed)
        return next(failed, None if self.correct else len(self.results))

    @property
    def outcome(self) -> Outcome:
        """The outcome of the whole program: that of its first failing test."""
        if self.broken is not None:
            return Outcome.BROKEN
        if self.program is None:
            return Outcome.NO_PROGRAM
        if self.raised is not None:
            return Outcome.UNLOADABLE
        failed = self.first_failure
        if failed is None:
            return Outcome.PASSED
        if failed < len(self.results):
            return Outcome.RAISED if isinstance(self.results[failed].got, Raised) else Outcome.WRONG
        return Outcome(self.stop.value) if self.stop is not None else Outcome.EXIT


class CodeTaskConfig(BaseTaskConfig):
    """Python functions to write."""

    path: Path = shipped("didact.tasks.code", "problems.jsonl")
    """A file of problems, in one of the shapes of tasks/code/load.py; by default the set that ships with
    Didact."""
    eval_path: Path | None = None
    """A second one to evaluate on; then all of `path` is for training."""
    shape: Literal["auto", "own", "humaneval", "mbpp"] = "auto"
    """The columns of both files; auto decides by each row."""
    unconvertible: Literal["refuse", "skip"] = "refuse"
    """Refuse a file with a test that cannot be verified outside the sandbox, or skip such problems."""
    eval_fraction: EvalFraction = 0.2
    dense: bool = False
    """Reward the share of passed tests, of those that the prompt does not show, in place of 1 for all and 0
    for less. `correct` means all either way."""
    cpu_seconds: Annotated[int, Field(ge=1)] = 2
    """CPU time of one program, for all its tests together."""
    wall_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0
    """Wall-clock time of the same."""
    memory_mb: Annotated[int, Field(ge=64)] = 256
    """Address space of one process in MiB."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Programs that run at once; 0 for one a core, at most 8."""
    sandbox: Literal["auto", "bubblewrap", "namespaces"] = "auto"
    unsafe_local_exec: bool = False
    """Where no sandbox works, run programs as processes of this user, with no protection."""

    def build(self, seed: int) -> CodeTask:
        return CodeTask(self, seed=seed)


class CodeTask(DatasetTask):
    """Write a Python function that passes tests.

    A program that is wrong, slow, greedy or hostile scores 0. If the sandbox fails, the verdict has no reward
    and an error.

    Attributes:
        sandbox: The backend that runs the programs; "unsafe" for none.
        left_out: The reason, by id, why a problem is not used.
    """

    name = "code"
    critic_name = "tests"
    critic_uses_reference = False

    def __init__(self, config: CodeTaskConfig, *, seed: int = 0) -> None:
        self.limits = Limits(cpu_s=config.cpu_seconds, wall_s=config.wall_seconds, memory_mb=config.memory_mb)
        self.dense = config.dense
        self.workers = config.workers or min(os.cpu_count() or 1, 8)
        read = partial(load, shape=config.shape, skip=config.unconvertible == "skip")
        evaluation = None if config.eval_path is None else read(config.eval_path)
        split = split_problems(read(config.path), evaluation, config.eval_fraction)
        super().__init__(split.train, split.evaluation, files=split.files, seed=seed, stream="code-order")
        self.left_out = split.left_out
        self.sandbox = choose_backend(config.sandbox, unsafe_local_exec=config.unsafe_local_exec)
        self._reports = OrderedDict[str, CodeReport]()
        self._lock = threading.Lock()

    def verify(self, problem: Problem, answer: str) -> Verdict:
        report = self.report(problem, answer)
        if report.broken is not None:
            return Verdict(None, False, report.broken)
        return Verdict(report.share if self.dense else float(report.correct), report.correct)

    @on_main_process
    def verify_many(self, asked: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """One verdict for each (problem, answer), in order, several programs at once."""
        with ThreadPoolExecutor(max_workers=self.workers) as pool:
            return list(pool.map(lambda pair: self.verify(*pair), asked))

    @on_main_process
    def report(self, problem: Problem, answer: str) -> CodeReport:
        """The result of running an answer's program; the last `CACHED_REPORTS` are cached.

        Raises:
            DataError: the problem is not one of a code task.
        """
        tests, shown_tests = unit_tests_of(problem)
        meta = problem.metadata
        program = program_in(answer, meta["entry_point"], meta.get("prefix", ""))
        if program is None:
            return CodeReport(None, tests, shown_tests=shown_tests)
        asked = json.dumps([problem.id, problem.metadata, program], sort_keys=True, default=str)
        key = hashlib.sha256(asked.encode()).hexdigest()
        with self._lock:
            if key in self._reports:
                self._reports.move_to_end(key)
                return self._reports[key]
        report = self._run(CodeReport(program, tests, shown_tests=shown_tests), meta.get("setup", ""))
        if report.broken is None:
            with self._lock:
                self._reports[key] = report
                while len(self._reports) > CACHED_REPORTS:
                    self._reports.popitem(last=False)
        return report

    def _run(self, report: CodeReport, setup: str) -> CodeReport:
        """The report of a program that has not run yet, with what running it gives."""
        assert report.program is not None
        results, loaded = list[UnitTestResult](), False
        try:
            with Session(self.sandbox, self.limits) as session:
                if wrong := _prepare(session, setup):
                    return replace(report, broken=wrong)
                try:
                    answer = _read(session.run(report.program))
                    if isinstance(answer, Raised):
                        return replace(report, raised=answer)
                    loaded = True
                    for index, test in enumerate(report.tests):
                        got = _read(session.evaluate(test.call))
                        passed = not isinstance(got, Raised) and test.passes(got)
                        kept = got if isinstance(got, Raised) else shown(got)
                        results.append(UnitTestResult(test, index < report.shown_tests, passed, kept))
                except Stopped as stopped:
                    report = replace(report, stop=stopped.why, detail=stopped.detail)
        except SandboxError as error:
            return replace(report, broken=str(error))
        return replace(report, results=tuple(results), loaded=loaded)


def _prepare(session: Session, setup: str) -> str | None:
    """Run the problem's own setup before the program; what is wrong with it, or None."""
    if not setup:
        return None
    try:
        found = _read(session.run(setup))
    except Stopped as stopped:
        return f"the problem's own setup was stopped ({stopped})"
    if isinstance(found, Raised):
        return f"the problem's own setup raised {found.kind}: {found.message}"
    return None


def unit_tests_of(problem: Problem) -> tuple[tuple[UnitTest, ...], int]:
    """(all tests, the number that the prompt shows), the shown ones first.

    Raises:
        DataError: the problem has no tests of a code task.
    """
    meta = problem.metadata
    try:
        entry, tolerance = meta["entry_point"], meta.get("tolerance")
        examples, hidden = (
            [test for text in meta[key] for test in parse_test(text, entry, tolerance)]
            for key in ("examples", "tests")
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"problem {problem.id!r} is no code problem ({type(error).__name__}: {error}): it needs "
            "entry_point, examples and tests in its metadata; take it from the code task"
        ) from None
    return (*examples, *hidden), len(examples)


def _read(line: str) -> Plain | Raised:
    try:
        return read_value(line)
    except ValueError as error:
        raise Stopped(Stop.ANSWER, str(error)) from None
