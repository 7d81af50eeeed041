r"""The process in which math-verify runs: `python worker.py`, one JSON line in, one JSON line out.

    in    {"gold": "1/2", "answer": "0.5", "loose": false, "cpu_s": 3, "wall_s": 60.0, "memory_mb": 1024}
    out   {"equal": true}, {"equal": false, "why": …} or, if the comparison failed, {"error": …}

A short text, as 5^{5^{5^5}}, can keep sympy busy for ever, in C code that no Python signal handler
interrupts. So every comparison runs in a child, forked after the slow imports, with limits on CPU time and
memory, and killed at the end of its wall-clock time.

Only math-verify's LaTeX parser is used, which builds expressions from a grammar; its parser of plain
expressions evaluates text as Python. This file imports nothing of the project, so that it starts fast.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import re
import resource
import select
import signal
import sys
from typing import Any

# sympy evaluates some of these while parsing, so that the expression no longer shows them.
_WORK = re.compile(
    r"!|\\(?:[dt]?binom|choose|sum|prod|int|lim|sqrt|log|ln|exp|sin|cos|tan|gcd|lcm|max|min|l?floor|l?ceil)"
)


def equal(gold: str, answer: str, loose: bool) -> dict[str, Any]:
    """Compare two expressions."""
    verify = importlib.import_module("math_verify").verify
    wanted, given = _parsed(gold), _parsed(answer)
    if not wanted:
        return {"equal": False, "why": "the reference cannot be read"}
    if not given:
        return {"equal": False, "why": "the answer cannot be read"}
    last = answer.rsplit("=", 1)[-1]
    is_number = getattr(wanted[0], "is_Number", False)
    if not loose and is_number and (_WORK.search(last) or not _is_evaluated(given[0])):
        return {"equal": False, "why": "the answer is not worked out"}
    return {"equal": bool(verify(wanted, given, timeout_seconds=None))}


def _parsed(text: str) -> list[Any]:
    library = importlib.import_module("math_verify")
    configs = [library.LatexExtractionConfig(boxed_match_priority=0)]
    found: list[Any] = library.parse(rf"\boxed{{{text}}}", extraction_config=configs, parsing_timeout=None)
    return found


def _is_evaluated(expression: Any) -> bool:
    """A number in final form: 5, 1/2, 0.5, 50 %, 3·10⁸. Of an equation the last side counts."""
    sympy = importlib.import_module("sympy")
    if type(expression).__name__ == "And":  # a = b = 5, in math-verify's own class
        expression = getattr(expression, "_unsorted_args", expression.args)[-1]
    if isinstance(expression, sympy.Rel):
        expression = expression.rhs
    if not isinstance(expression, sympy.Expr) or not expression.is_number:
        return True  # no number: the comparison finds it different
    factors = [factor for factor in sympy.Mul.make_args(expression) if factor != -1]
    numbers = [factor for factor in factors if factor.is_Number]
    scales = [factor for factor in factors if not factor.is_Number]
    if not factors or expression.is_Number:
        return True
    if len(numbers) == 2 and _is_power_of_ten(numbers[1]):
        numbers, scales = numbers[:1], [*scales, numbers[1]]
    return len(numbers) == 1 and len(scales) == 1 and _is_scale(scales[0])


def _is_scale(factor: Any) -> bool:
    """Per cent, or a power of ten."""
    sympy = importlib.import_module("sympy")
    if isinstance(factor, sympy.UnevaluatedExpr):
        return bool(factor.args[0] == sympy.Rational(1, 100))
    if isinstance(factor, sympy.Pow):
        return bool(factor.base == 10 and factor.exp.is_Integer)
    return _is_power_of_ten(factor)


def _is_power_of_ten(factor: Any) -> bool:
    return bool(factor.is_Integer and factor >= 10 and set(str(factor)[1:]) == {"0"})


def answer_one(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request, from a child process with limits."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        _child(request, read, write)  # never returns
    os.close(write)
    try:
        return _wait(child, read, float(request["wall_s"]))
    finally:
        os.close(read)


def _child(request: dict[str, Any], read: int, write: int) -> None:
    try:
        os.close(read)
        cpu, memory = int(request["cpu_s"]), int(request["memory_mb"]) * 2**20
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        try:
            reply = equal(request["gold"], request["answer"], bool(request["loose"]))
        except BaseException as error:  # a third party's parser meets a model's text
            reply = {"equal": False, "why": f"{type(error).__name__}: {error}"[:200]}
        os.write(write, json.dumps(reply).encode())
    finally:
        os._exit(0)


def _wait(child: int, read: int, wall_s: float) -> dict[str, Any]:
    late = not select.select([read], [], [], wall_s)[0]
    if late:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    data = b"" if late else os.read(read, 65536)  # a reply is one write, shorter than the pipe's atomic size
    _, status = os.waitpid(child, 0)
    if late:
        return {"error": "the comparison with math-verify did not end in time"}
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        return {"equal": False, "why": "the answer takes too long to compute"}
    try:
        reply: dict[str, Any] = json.loads(data)
    except ValueError:
        return {"equal": False, "why": "the comparison process died"}
    return reply


def main() -> None:
    """Serve until the input ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a library's prints are no replies
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        importlib.import_module("math_verify")
        logging.disable(logging.CRITICAL)
        equal("1", "2", False)  # builds the grammar's tables once, before any fork
        hello: dict[str, Any] = {"ready": True}
    except ImportError as error:
        hello = {"missing": str(error)}
    print(json.dumps(hello), file=out, flush=True)
    for line in sys.stdin:
        try:
            reply = answer_one(json.loads(line))
        except OSError as error:
            reply = {"error": f"the process of math-verify failed ({type(error).__name__}: {error})"}
        print(json.dumps(reply), file=out, flush=True)


if __name__ == "__main__":
    main()
