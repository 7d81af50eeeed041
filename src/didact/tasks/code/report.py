"""What came of a program: one result a test, and why it ended early."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from didact.tasks.code.cases import Case
from didact.tasks.code.values import Plain, shown
from didact.tasks.sandbox import Stop


class Outcome(StrEnum):
    """What a program, or one test of it, came to."""

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
    """It sent what is no answer, or one that is too long."""
    EXIT = "exit"
    """Its process ended before it answered."""
    BROKEN = "broken"
    """The sandbox failed: nobody knows what the program does."""


@dataclass(frozen=True)
class Raised:
    """An exception of the program, seen from its last frame.

    Attributes:
        kind: As "ZeroDivisionError".
        message: What it says.
        line: The program's line, from 1; 0 where none is known.
        function: The function of that frame.
    """

    kind: str
    message: str
    line: int = 0
    function: str = ""


@dataclass(frozen=True)
class CaseResult:
    """One test that was run to an answer: a value, or an exception."""

    case: Case
    shown: bool
    """Is it one of the examples in the prompt?"""
    passed: bool
    got: str | Raised
    """What came back, as it may be shown (not the value itself, which can be large), or what it raised."""

    @classmethod
    def of(cls, case: Case, shown_in_prompt: bool, got: Plain | Raised) -> CaseResult:
        """The verdict on one answer."""
        if isinstance(got, Raised):
            return cls(case, shown_in_prompt, False, got)
        return cls(case, shown_in_prompt, case.passes(got), shown(got))

    @property
    def outcome(self) -> Outcome:
        if isinstance(self.got, Raised):
            return Outcome.RAISED
        return Outcome.PASSED if self.passed else Outcome.WRONG


@dataclass(frozen=True)
class CodeReport:
    """What came of a program.

    Attributes:
        program: What was run; None where the answer holds none.
        tried: The tests that got an answer, in order.
        cases: All tests, the examples of the prompt first.
        raised: What loading the program raised.
        stop: Why it ended before the test after the last one tried.
        detail: As "2 s" or "signal 11".
        broken: What is wrong with the sandbox, or with the problem's own setup.
        shown_cases: How many of `cases` are examples of the prompt.
        loaded: Did the program itself run to its end, so that its tests could begin?
    """

    program: str | None
    cases: tuple[Case, ...]
    tried: tuple[CaseResult, ...] = ()
    raised: Raised | None = None
    stop: Stop | None = None
    detail: str = ""
    broken: str | None = None
    shown_cases: int = 0
    loaded: bool = False

    @property
    def passed(self) -> int:
        """How many tests passed."""
        return sum(t.passed for t in self.tried)

    @property
    def correct(self) -> bool:
        """Did every test pass?"""
        return self.broken is None and bool(self.cases) and self.passed == len(self.cases)

    @property
    def share(self) -> float:
        """The share of the tests that passed, in [0, 1], of those that the prompt does not show where
        there are such; a test that was never reached did not pass."""
        hidden = len(self.cases) - self.shown_cases
        counted = [t for t in self.tried if not t.shown] if hidden else list(self.tried)
        return sum(t.passed for t in counted) / max(hidden or len(self.cases), 1)

    @property
    def first_failure(self) -> int | None:
        """The index of the first test that did not pass, or None."""
        for index, tried in enumerate(self.tried):
            if not tried.passed:
                return index
        return None if self.correct else len(self.tried)

    @property
    def outcome(self) -> Outcome:
        """What the whole program came to: that of its first failing test."""
        if self.broken is not None:
            return Outcome.BROKEN
        if self.program is None:
            return Outcome.NO_PROGRAM
        if self.raised is not None:
            return Outcome.UNLOADABLE
        failed = self.first_failure
        if failed is None:
            return Outcome.PASSED
        if failed < len(self.tried):
            return self.tried[failed].outcome
        return Outcome(self.stop.value) if self.stop is not None else Outcome.EXIT
