"""The result of running a program: one result per test, and the reason of an early end."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from didact.tasks.code.unit_tests import UnitTest
from didact.tasks.code.values import Plain, Raised, shown
from didact.tasks.sandbox.session import Stop


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

    @classmethod
    def of(cls, test: UnitTest, shown_in_prompt: bool, got: Plain | Raised) -> UnitTestResult:
        """The result for one returned value or exception."""
        if isinstance(got, Raised):
            return cls(test, shown_in_prompt, False, got)
        return cls(test, shown_in_prompt, test.passes(got), shown(got))

    @property
    def outcome(self) -> Outcome:
        if isinstance(self.got, Raised):
            return Outcome.RAISED
        return Outcome.PASSED if self.passed else Outcome.WRONG


@dataclass(frozen=True)
class CodeReport:
    """The result of running a program.

    Attributes:
        program: Its source; None if the answer holds none.
        tests: All tests, the examples of the prompt first.
        results: The tests that returned or raised, in order.
        raised: What loading the program raised.
        stop: Why the program ended before the remaining tests.
        detail: As "2 s" or "signal 11".
        broken: What is wrong with the sandbox, or with the problem's own setup.
        shown_tests: How many of `tests` are examples of the prompt.
        loaded: The program loaded, so that its tests could start.
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
        counted = [t for t in self.results if not t.shown] if hidden else list(self.results)
        return sum(t.passed for t in counted) / max(hidden or len(self.tests), 1)

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
            return self.results[failed].outcome
        return Outcome(self.stop.value) if self.stop is not None else Outcome.EXIT
