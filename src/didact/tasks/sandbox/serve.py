"""Runs the program inside the sandbox and returns the values of its calls.

This code shares its process with the program, which may patch or forge all of it. So it knows no expected
value: it receives one call at a time and returns the value as plain data. A program that takes over this
module can only claim that a call returned v, and v still has to be right.

    → 12\\nprogram text      one request: its length in bytes, then its UTF-8 text
    ← {"raised": …} or {"value": …}, one line of ASCII JSON
"""

from __future__ import annotations

import os
import sys
from _json import encode_basestring_ascii as _ascii
from types import TracebackType
from typing import Any, NamedTuple

FILE = "<program>"
"""The program's file name in tracebacks."""
READY = b'{"ready":true}\n'
_DEEPEST = 80
MIB = 1 << 20


class Limits(NamedTuple):
    """Resource limits of one program, from loading it to its last answer.

    Memory and CPU time are limits of each process, as Linux enforces them: together the processes may use
    `processes` times as much, within the wall time.
    """

    cpu_s: int = 2
    """CPU time in whole seconds, ≥ 1, which does not depend on the load of the machine."""
    memory_mb: int = 256
    """Address space in MiB, ≥ 64."""
    processes: int = 8
    """Processes and threads at once, the first one included, ≥ 1."""
    disk_mb: int = 16
    """Size in MiB of the only writable folder, and of any one file in it."""
    output_kb: int = 256
    """KiB that may be printed, and KiB of one returned value."""
    wall_s: float = 10.0
    """Wall-clock time in seconds, > 0, for a program that sleeps."""


def serve(channel: int, *, longest: int) -> None:
    """Execute and evaluate requests until the channel ends.

    A request that starts with "!" is executed in the program's module; one that starts with "?" is an
    expression to evaluate. `channel` is the socket's file descriptor, `longest` the largest answer in bytes.
    """
    module = type(sys)("program")
    sys.modules["program"] = module  # dataclasses look up their module there
    os.write(channel, READY)
    while (request := _receive(channel)) is not None:
        kind, text = request[:1], request[1:]
        try:
            if kind == "!":
                exec(compile(text, FILE, "exec", dont_inherit=True), module.__dict__)
                answer = '{"value":null}'
            else:
                value = eval(compile(text, "<call>", "eval", dont_inherit=True), module.__dict__)
                answer = '{"value":' + encode(value, longest) + "}"
        except BaseException as error:
            answer = '{"raised":' + _raised(error) + "}"
        line = answer.encode("ascii") + b"\n"
        while line:
            line = line[os.write(channel, line) :]


def encode(value: Any, longest: int) -> str:
    """A value as JSON: null, booleans, small integers and strings directly, all others as [tag, …].

    l list, t tuple, s set, z frozenset, d dict of pairs, f float, i integer, c complex, b bytes, and
    o (type, repr) for any other type.

    >>> encode((1, [2.5, {"a": None}]), 1000)
    '["t",1,["l",["f","0x1.4000000000000p+1"],["d",["a",null]]]]'
    """
    left = [longest]
    try:
        return _encode(value, _DEEPEST, left)
    except (ValueError, RecursionError) as error:
        return f'["o","value {_ascii(str(error) or "nested too deep")[1:-1]}",""]'


def _encode(value: Any, deep: int, left: list[int]) -> str:
    if deep == 0:
        raise ValueError("nested too deep")
    if value is None or value is True or value is False:
        text = {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, int):
        number = int.__index__(value)
        text = str(number) if abs(number) < 2**53 else f'["i","{number:x}"]'
    elif isinstance(value, float):
        text = f'["f","{float.hex(value)}"]'
    elif isinstance(value, str):
        if len(value) > left[0]:
            raise ValueError("too long")
        text = _ascii(value)
    elif isinstance(value, bytes | bytearray):
        text = f'["b","{bytes(value[: left[0]]).hex()}"]'
    elif isinstance(value, complex):
        text = f'["c","{value.real.hex()}","{value.imag.hex()}"]'
    else:
        text = _encode_group(value, deep, left)
    left[0] -= len(text)
    if left[0] < 0:
        raise ValueError("too long")
    return text


def _encode_group(value: Any, deep: int, left: list[int]) -> str:
    for tag, kind in (("l", list), ("t", tuple), ("s", set), ("z", frozenset)):
        if isinstance(value, kind):
            return "[" + ",".join([f'"{tag}"', *(_encode(item, deep - 1, left) for item in value)]) + "]"
    if isinstance(value, dict):
        pairs = (f"[{_encode(k, deep - 1, left)},{_encode(v, deep - 1, left)}]" for k, v in value.items())
        return "[" + ",".join(['"d"', *pairs]) + "]"
    return f'["o",{_ascii(type(value).__name__)},{_ascii(_text(repr, value, 200))}]'


def _raised(error: BaseException) -> str:
    """[type, message, line of the program or 0, function or ""] at the last frame in the program."""
    line, function = 0, ""
    if isinstance(error, SyntaxError) and error.filename == FILE:
        line = error.lineno or 0
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == FILE:
            line, function = trace.tb_lineno, trace.tb_frame.f_code.co_name
        trace = trace.tb_next
    message = error.msg if isinstance(error, SyntaxError) else _text(str, error, 400)
    words = (type(error).__name__, str(message)[:400], int(line), function)
    return f"[{_ascii(words[0])},{_ascii(words[1])},{words[2]},{_ascii(words[3])}]"


def _text(how: Any, value: Any, longest: int) -> str:
    try:
        return str(how(value))[:longest]
    except BaseException:
        return ""


def _receive(channel: int) -> str | None:
    header = b""
    while not header.endswith(b"\n"):
        byte = os.read(channel, 1)
        if not byte:
            return None
        header += byte
    left, parts = int(header), list[bytes]()
    while left:
        part = os.read(channel, min(left, 1 << 16))
        if not part:
            return None
        parts.append(part)
        left -= len(part)
    return b"".join(parts).decode()
