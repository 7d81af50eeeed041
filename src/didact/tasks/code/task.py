"""Python functions to write, verified by running them against tests in an OS sandbox.

The program runs inside, the verdict is made outside: the sandbox is sent one call at a time and its
answers, plain data, are compared here (`cases`, `values`). The expected values never enter it. So a
program that patches the runner, forges answers or ends the process can claim a value for a call, and
nothing more; the value still has to be right.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

from didact.errors import DataError, UsageError
from didact.tasks.base import Verdict
from didact.tasks.code.cases import Case, parse_test
from didact.tasks.code.extract import program_in
from didact.tasks.code.load import SHAPES, load
from didact.tasks.code.report import CaseResult, CodeReport, Outcome, Raised
from didact.tasks.code.values import Plain, read_value
from didact.tasks.dataset_task import DatasetTask, check_fraction, read_split
from didact.tasks.sandbox import Limits, SandboxError, Session, Stop, Stopped, choose_backend
from didact.types import Problem

CACHED_REPORTS = 4096
"""Reports that are kept, so that a critic does not run again what the verifier has run."""


class CodeTask(DatasetTask):
    """Write a Python function that passes tests.

    A program that is wrong, slow, greedy or hostile is a wrong answer and scores 0. A sandbox that
    fails is no answer at all: its verdict has no reward and an error.

    Args:
        path: JSON lines of problems (see `load`); without it, the set that ships with Didact.
        eval_path: A second file to evaluate on; then all of `path` is for training.
        shape: "auto", or one of "own", "humaneval" and "mbpp".
        unconvertible: "refuse" a file with a test that cannot be verified outside the sandbox, or
            "skip" such problems; `left_out` then names them.
        eval_fraction: About this part of the problems is kept for evaluation, in (0, 1), by a hash of
            the question alone.
        dense: Give the share of the tests that pass, of those that the prompt does not show, as
            reward, in place of 1 for all and 0 for less. `correct` means all either way.
        cpu_seconds: CPU time of one program, all its tests together, whole seconds ≥ 1.
        wall_seconds: Wall-clock time of the same, > 0.
        memory_mb: Address space of a process in MiB, ≥ 64.
        workers: Programs that `verify_many` runs at once; 0 for one a core, at most 8.
        sandbox: "auto", "bubblewrap" or "namespaces".
        unsafe_local_exec: Where no sandbox holds, run programs as bare processes of this user, with
            no protection.
        seed: The order of the training problems; each pass over them has an order of its own.

    Raises:
        UsageError: a setting out of range, or no sandbox holds here.
        DataError: a file or row that cannot be used, naming the line, the column and the cure.
    """

    name = "code"
    critic_name = "tests"
    critic_uses_reference = False

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        eval_path: str | Path | None = None,
        shape: str = "auto",
        unconvertible: str = "refuse",
        eval_fraction: float = 0.2,
        dense: bool = False,
        cpu_seconds: int = 2,
        wall_seconds: float = 10.0,
        memory_mb: int = 256,
        workers: int = 0,
        sandbox: str = "auto",
        unsafe_local_exec: bool = False,
        seed: int = 0,
    ) -> None:
        _check(shape, unconvertible, eval_fraction, workers)
        try:
            self.limits = Limits(cpu_s=cpu_seconds, wall_s=wall_seconds, memory_mb=memory_mb)
        except ValueError as error:
            raise UsageError(f"task 'code': {error}") from None
        self.dense = dense
        self.workers = workers or min(os.cpu_count() or 1, 8)
        file, skip = shipped() if path is None else path, unconvertible == "skip"
        split = read_split(lambda f: load(f, shape, skip=skip), file, eval_path, eval_fraction)
        super().__init__(
            split.train, split.evaluation, files=(file, eval_path), seed=seed, stream="code-order"
        )
        self.left_out = split.left_out
        """Why, by id, problems of the files are not used."""
        self.sandbox = choose_backend(sandbox, unsafe_local_exec=unsafe_local_exec)
        """The backend that runs the programs; "unsafe" for none."""
        self._reports = OrderedDict[str, CodeReport]()
        self._lock = threading.Lock()

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Run the answer's program against the problem's tests."""
        report = self.report(problem, answer)
        if report.broken is not None:
            return Verdict(None, False, report.broken)
        return Verdict(report.share if self.dense else float(report.correct), report.correct)

    def verify_many(self, asked: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """One verdict for each (problem, answer), in order, several programs at once."""
        with ThreadPoolExecutor(max_workers=self.workers) as pool:
            return list(pool.map(lambda pair: self.verify(*pair), asked))

    def report(self, problem: Problem, answer: str) -> CodeReport:
        """All that is known of an answer's program; kept for a while, so that asking again is free.

        Raises:
            DataError: the problem is not one of a code task.
        """
        cases, shown = cases_of(problem)
        meta = problem.metadata
        program = program_in(answer, meta["entry_point"], meta.get("prefix", ""))
        if program is None:
            return CodeReport(None, cases, shown_cases=shown)
        key = _key(problem, program)
        with self._lock:
            if key in self._reports:
                self._reports.move_to_end(key)
                return self._reports[key]
        report = self._run(program, meta.get("setup", ""), cases, shown)
        if report.broken is None:
            with self._lock:
                self._reports[key] = report
                while len(self._reports) > CACHED_REPORTS:
                    self._reports.popitem(last=False)
        return report

    def _run(self, program: str, setup: str, cases: tuple[Case, ...], shown: int) -> CodeReport:
        tried, raised, loaded, stopped = list[CaseResult](), None, False, None
        try:
            with Session(self.sandbox, self.limits) as session:
                if wrong := _prepare(session, setup):
                    return CodeReport(program, cases, broken=wrong, shown_cases=shown)
                try:
                    answer = _read(session.run(program))
                    raised, loaded = (answer, False) if isinstance(answer, Raised) else (None, True)
                    for index, case in enumerate(cases if loaded else ()):
                        got = _read(session.evaluate(case.call))
                        tried.append(CaseResult.of(case, index < shown, got))
                except Stopped as error:
                    stopped = error
        except SandboxError as error:
            return CodeReport(program, cases, broken=str(error), shown_cases=shown)
        stop, detail = (None, "") if stopped is None else (stopped.why, stopped.detail)
        return CodeReport(program, cases, tuple(tried), raised, stop, detail, None, shown, loaded)


def _prepare(session: Session, setup: str) -> str | None:
    """Run the problem's own setup, before the program: what is wrong with it, or None."""
    if not setup:
        return None
    try:
        found = _read(session.run(setup))
    except Stopped as stopped:
        return f"the problem's own setup was stopped ({stopped})"
    if isinstance(found, Raised):
        return f"the problem's own setup raised {found.kind}: {found.message}"
    return None


def shipped() -> Path:
    """The file of the problems that ship with Didact."""
    return Path(str(resources.files("didact.tasks.code") / "problems.jsonl"))


def cases_of(problem: Problem) -> tuple[tuple[Case, ...], int]:
    """(all cases, how many of them the prompt shows), the shown ones first.

    Raises:
        DataError: the problem has no tests of a code task.
    """
    meta = problem.metadata
    try:
        entry, tolerance = meta["entry_point"], meta.get("tolerance")
        shown = [case for test in meta["examples"] for case in parse_test(test, entry, tolerance)]
        hidden = [case for test in meta["tests"] for case in parse_test(test, entry, tolerance)]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"problem {problem.id!r} is no code problem ({type(error).__name__}: {error}): it needs "
            "entry_point, examples and tests in its metadata; take it from the code task"
        ) from None
    return (*shown, *hidden), len(shown)


def _read(line: str) -> Plain | Raised:
    try:
        found = read_value(line)
    except ValueError as error:
        raise Stopped(Stop.ANSWER, str(error)) from None
    return found if isinstance(found, Plain) else Raised(*found)


def _key(problem: Problem, program: str) -> str:
    asked: list[Any] = [problem.id, problem.metadata, program]
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()


def _check(shape: str, unconvertible: str, eval_fraction: float, workers: int) -> None:
    if shape not in ("auto", *SHAPES):
        raise UsageError(f"task 'code': shape must be auto, {', '.join(SHAPES)}, not {shape!r}")
    if unconvertible not in ("refuse", "skip"):
        raise UsageError(f"task 'code': unconvertible must be refuse or skip, not {unconvertible!r}")
    check_fraction(eval_fraction, "task 'code': ")
    if workers < 0:
        raise UsageError(f"task 'code': workers must be 0 or above, not {workers}")


__all__ = ["CodeTask", "Outcome", "cases_of", "shipped"]
