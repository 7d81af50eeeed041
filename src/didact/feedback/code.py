"""The critic of the code task: the results of compiling a program and running its unit tests.

    verdict   "The program passes 2 of 6 tests."
    hint      … "In test 3, `mean([])` raised ZeroDivisionError: division by zero, in line 2:
              `return sum(numbers) / len(numbers)`."
    reveal    … "In test 1, `mean([1, 2])` should return 1.5, but it returned 3."

Only the first failing test is named: `hint` gives its call and the result, `reveal` also the expected
result. The reference program and the other tests are never shown.

A line that raised an exception is a poor span with the sentence that names it, if the answer holds the
program once; a right program is a good span. A wrong value has no line and thus no span.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from didact.distributed import on_main_process
from didact.errors import DataError, UsageError
from didact.feedback.program import Level, Place, spans, whole
from didact.feedback_source import FeedbackRequest
from didact.tasks.code.task import CodeReport, CodeTask, Outcome, UnitTestResult
from didact.tasks.code.values import Raised, one_line
from didact.types import Feedback, Span

RIGHT = "The program is right: it passes all tests."
MOST_LINT = 5
"""The most linter messages in a critique."""
LINT_SECONDS = 10.0
_LONGEST_CALL = 200
_STOPPED = {
    Outcome.TIME: "did not finish in time",
    Outcome.CPU: "used up its computing time: it may never end",
    Outcome.OUTPUT: "printed more than is allowed",
    Outcome.ANSWER: "returned a value that is too large",
    Outcome.EXIT: "ended the whole process",
}


class CodeCritic:
    """Writes critiques of programs from the results of running them.

    `saw_reference` of a critique is True if a test finished, because the critique then depends on the private
    tests' expected values. It is False if the critique depends on the answer alone: there is no program, it
    raised while loading, or it was stopped in its first test.

    Args:
        task: Runs the programs, with a cache of those that were verified before.
        level: How much a critique reveals; `direction` equals `hint`.
        linter: Add up to five messages of `ruff` about a wrong program, which ruff reads but does not run.

    Raises:
        UsageError: `linter` is set and ruff is not installed.
    """

    def __init__(
        self, task: CodeTask, level: Level | str = Level.REVEAL, *, linter: bool = False, spans: bool = True
    ) -> None:
        self.task, self.level, self.with_spans = task, Level(level), spans
        self._ruff = shutil.which("ruff") if linter else None
        if linter and self._ruff is None:
            raise UsageError(
                "a linter is wanted, but ruff is not installed: pip install ruff, or linter=false"
            )

    @on_main_process
    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One feedback per request, in order, several at once; it has failed if the sandbox failed."""
        with ThreadPoolExecutor(max_workers=self.task.workers) as pool:
            return list(pool.map(self._one, requests))

    def _one(self, request: FeedbackRequest) -> Feedback:
        author = f"code:{self.level}"
        try:
            report = self.task.report(request.problem, request.turn.answer)
            broken = report.broken
        except DataError as error:
            broken = str(error)
        if broken is not None:
            return request.failed(one_line(broken), author=author)
        return request.reply(
            self.text(report),
            author=author,
            saw_reference=bool(report.results),
            score=request.turn.reward,
            label="right" if report.correct else "wrong",
            spans=self.spans(report, request.turn.answer) if self.with_spans else (),
        )

    def text(self, report: CodeReport) -> str:
        """The critique of a program, with the program's output as data."""
        if report.correct:
            return RIGHT
        if report.program is None:
            return "There is no program in the answer."
        lines = [self._result(report)]
        if self._ruff is not None and self.level is not Level.VERDICT:
            found = lint(report.program, self._ruff)
            lines += ["The linter says:", *found] if found else []
        return "\n".join(lines)

    def spans(self, report: CodeReport, answer: str) -> tuple[Span, ...]:
        """The spans of an answer that are certain; none of a wrong program at level `verdict`."""
        if report.program is None:
            return ()
        if report.correct:
            place = _place(answer, report.program, 0, len(report.program.rstrip()))
            return spans(answer, [place], "good", RIGHT) if place else whole(answer, "good", RIGHT)
        raised, index = report.raised, report.first_failure
        if raised is None and index is not None and index < len(report.results):
            got = report.results[index].got
            raised = got if isinstance(got, Raised) else None
        if raised is None or self.level is Level.VERDICT:
            return ()
        line = _line(report.program, raised.line)
        place = _place(answer, report.program, *line) if line else None
        sentence = self._result(report).removeprefix(_count(report)).strip()
        return spans(answer, [place], "poor", sentence) if place else ()

    def _result(self, report: CodeReport) -> str:
        if report.raised is not None:
            syntax = report.raised.kind in ("SyntaxError", "IndentationError", "TabError")
            failed = f"The program cannot be {'compiled' if syntax else 'run'}"
            if self.level is Level.VERDICT:
                return f"{failed}."
            return f"{failed}: {_exception(report.raised, report.program or '')}"
        count = _count(report)
        index = report.first_failure
        if self.level is Level.VERDICT or index is None:
            return count
        if not report.loaded:
            return f"{count} Before any test it {_STOPPED[report.outcome]}."
        if index >= len(report.results):
            call = _code(report.tests[index].call)
            stopped = _STOPPED.get(report.outcome, "gave no answer")
            detail = f" ({one_line(report.detail)})" if report.detail else ""
            return f"{count} In test {index + 1}, {call} {stopped}{detail}."
        return f"{count} In test {index + 1}, {self._failure(report.results[index], report.program or '')}"

    def _failure(self, result: UnitTestResult, program: str) -> str:
        call, reveal = _code(result.test.call), self.level is Level.REVEAL
        if isinstance(result.got, Raised):
            wanted = f"should return {one_line(result.test.wanted)}, but it " if reveal else ""
            return f"{call} {wanted}raised {_exception(result.got, program)}"
        if not reveal:
            return f"{call} returned {result.got}, which is wrong."
        return f"{call} should return {one_line(result.test.wanted)}, but it returned {result.got}."


def lint(program: str, ruff: str) -> list[str]:
    """Ruff's messages about a program: at most `MOST_LINT` lines, as "line 3: F821 Undefined name `x`".

    Empty if it finds nothing, fails or takes too long. It reads no configuration.
    """
    command = [ruff, "check", "--isolated", "--no-cache", "--quiet", "--exit-zero"]
    options = ["--select", "E9,F,B,PLE", "--output-format", "json", "--stdin-filename", "program.py", "-"]
    try:
        done = subprocess.run(
            [*command, *options], input=program.encode(errors="replace"), capture_output=True,
            timeout=LINT_SECONDS, check=False, env={},
        )  # fmt: skip
        found = json.loads(done.stdout)
        return [
            one_line(f"line {item['location']['row']}: {item['code'] or 'syntax'} {item['message']}")[:200]
            for item in found[:MOST_LINT]
        ]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return []


def _count(report: CodeReport) -> str:
    return f"The program passes {report.passed} of {len(report.tests)} tests."


def _line(program: str, number: int) -> Place | None:
    """The place of a line in the program, without white space around it; None if blank or missing."""
    lines = program.split("\n")
    if not 1 <= number <= len(lines) or not lines[number - 1].strip():
        return None
    line = lines[number - 1]
    start = sum(len(before) + 1 for before in lines[: number - 1]) + len(line) - len(line.lstrip())
    return start, start + len(line.strip())


def _place(answer: str, program: str, start: int, end: int) -> Place | None:
    """The place in the answer of a stretch of the program; None unless the answer holds the program once.

    The program may begin with lines that the task put before the answer.
    """
    body = program.removesuffix("\n")
    cuts = [0, *(i + 1 for i, c in enumerate(body) if c == "\n")]
    for cut in cuts:
        part = body[cut:]
        if cut > start or not part.strip():
            break
        at = answer.find(part)
        if at >= 0:
            return (at + start - cut, at + end - cut) if answer.find(part, at + 1) < 0 else None
    return None


def _exception(raised: Raised, program: str) -> str:
    """The exception and the line of the program that raised it."""
    error = one_line(raised.kind) + (f": {one_line(raised.message)}" if raised.message else "")
    lines = program.split("\n")
    if not 1 <= raised.line <= len(lines):
        return f"{error}."
    source = lines[raised.line - 1].strip()
    return f"{error}, in line {raised.line}" + (f": {_code(source)}." if source else ".")


def _code(text: str) -> str:
    text = one_line(text)
    return f"`{text if len(text) <= _LONGEST_CALL else text[: _LONGEST_CALL - 1] + '…'}`"
