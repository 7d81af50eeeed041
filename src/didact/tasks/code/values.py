"""Values that a program returned, compared outside the sandbox.

A program's answer arrives as a line of JSON that it may have forged. It becomes a `Plain`, never an object
with methods of the program, and only this module compares it with the expected `Plain`. Nothing is hashed, so
that no choice of keys makes a comparison slow.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 100
MAX_TEXT = 400
"""Characters that are kept of an exception's message, or of the repr of a value that is no plain data."""
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{4,16}")
_SCALARS = {"none": type(None), "number": bool | int | float, "str": str, "bytes": bytes, "complex": complex}
_GROUPS = {"l": "list", "t": "tuple", "s": "set", "z": "set"}
_BRACKETS = {"list": ("[", "]"), "tuple": ("(", ")"), "set": ("{", "}"), "dict": ("{", "}")}


@dataclass(frozen=True)
class Plain:
    """One value."""

    kind: str
    """A key of `_SCALARS`, "list", "tuple", "set", "dict", or "other" for anything else."""
    value: Any
    """The scalar; a tuple of `Plain` for a collection, of pairs for a dict; (type, repr) for "other"."""


@dataclass(frozen=True)
class Raised:
    """An exception of the program, at its last frame."""

    kind: str
    """As "ZeroDivisionError"."""
    message: str
    line: int = 0
    """The program's line, from 1; 0 if unknown."""
    function: str = ""


def plain(value: Any) -> Plain:
    """The `Plain` of a value of built-in types.

    >>> plain([1, "a"]).kind
    'list'
    """
    for kind, types in _SCALARS.items():
        if isinstance(value, types):
            return Plain(kind, value)
    if isinstance(value, dict):
        return Plain("dict", tuple((plain(k), plain(v)) for k, v in value.items()))
    for kind, group in (("list", list), ("tuple", tuple), ("set", set | frozenset)):
        if isinstance(value, group):
            return Plain(kind, tuple(plain(item) for item in value))
    return Plain("other", (type(value).__name__, repr(value)))


def read_value(line: str) -> Plain | Raised:
    """The value or exception in a line from the sandbox.

    Raises:
        ValueError: the line has another form, as only a forged one has.
    """
    try:
        answer = json.loads(line)
        if isinstance(answer, dict) and set(answer) == {"value"}:
            return _decoded(answer["value"], MAX_DEPTH)
        kind, message, number, function = answer["raised"]
        texts = isinstance(kind, str) and isinstance(message, str) and isinstance(function, str)
        if texts and isinstance(number, int):
            return Raised(kind[:100], message[:MAX_TEXT], number, function[:100])
    except (TypeError, KeyError, IndexError, ValueError, OverflowError, RecursionError):
        pass
    raise ValueError("the line from the sandbox is no answer")


def _decoded(node: Any, deep: int) -> Plain:
    if deep == 0:
        raise ValueError("nested too deep")
    if node is None or isinstance(node, bool | int | str):
        return plain(node)
    if not isinstance(node, list):
        raise ValueError("neither a scalar nor a list")
    tag, items = node[0], node[1:]
    if tag == "d":
        return Plain("dict", tuple((_decoded(k, deep - 1), _decoded(v, deep - 1)) for k, v in items))
    if tag in _GROUPS:
        return Plain(_GROUPS[tag], tuple(_decoded(item, deep - 1) for item in items))
    if tag == "f":
        return Plain("number", float.fromhex(items[0]))
    if tag == "i":
        return Plain("number", int(items[0], 16))
    if tag == "b":
        return Plain("bytes", bytes.fromhex(items[0]))
    if tag == "c":
        return Plain("complex", complex(float.fromhex(items[0]), float.fromhex(items[1])))
    if tag == "o" and all(isinstance(item, str) for item in items):
        return Plain("other", (items[0][:100], items[1][:MAX_TEXT]))
    raise ValueError("unknown tag")


def same(expected: Plain, got: Plain, tolerance: float | None = None) -> bool:
    """Equality as Python's `==` on built-in types, except that NaN equals NaN.

    If either number is a float, `tolerance` is the largest difference, absolute or relative to the larger.
    """
    if expected.kind != got.kind or expected.kind == "other":
        return False
    if expected.kind == "number":
        return _same_number(expected.value, got.value, tolerance)
    if expected.kind in _SCALARS:
        return bool(expected.value == got.value)
    if len(expected.value) != len(got.value):
        return False
    wants, gots = _ordered(expected), _ordered(got)
    if expected.kind == "dict":
        wants, gots = ([part for pair in pairs for part in pair] for pairs in (wants, gots))
    return all(same(w, g, tolerance) for w, g in zip(wants, gots, strict=True))


def _same_number(expected: Any, got: Any, tolerance: float | None) -> bool:
    if expected == got or (_is_nan(expected) and _is_nan(got)):
        return True
    if tolerance is None or not (isinstance(expected, float) or isinstance(got, float)):
        return False
    try:
        return math.isclose(expected, got, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # an int beyond every float
        return False


def _is_nan(value: Any) -> bool:
    return bool(value != value)  # math.isnan refuses large integers


def _ordered(value: Plain) -> list[Any]:
    if value.kind == "set":
        return sorted(value.value, key=_key)
    if value.kind == "dict":
        return sorted(value.value, key=lambda pair: _key(pair[0]))
    return list(value.value)


def _key(value: Plain) -> tuple[Any, ...]:
    """A sort key under which equal values are adjacent."""
    if value.kind == "number":
        nan = _is_nan(value.value)
        return ("number", nan, 0 if nan else value.value)
    if value.kind in _SCALARS or value.kind == "other":
        return (value.kind, repr(value.value))
    # Each part's key is computed once: sorting the parts first would repeat it at every depth.
    if value.kind == "dict":
        return ("dict", *sorted((_key(k), _key(v)) for k, v in value.value))
    keys = [_key(item) for item in value.value]
    return (value.kind, *(sorted(keys) if value.kind == "set" else keys))


def shown(value: Plain, longest: int = 200) -> str:
    """The value as Python writes it, cut after `longest` characters, on one printable line.

    >>> shown(plain({"a": (1,)}))
    "{'a': (1,)}"
    """
    left = [longest]
    text = _shown(value, left)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _shown(value: Plain, left: list[int]) -> str:
    if left[0] <= 0:
        return "…"
    if value.kind == "other":
        name, text = str(value.value[0]), str(value.value[1])
        left[0] -= len(name) + len(text)
        article = "an" if name[:1].lower() in "aeiou" else "a"
        return one_line(f"{article} {name}" + (f" ({text})" if text else ""))
    if value.kind in _SCALARS:
        text = _scalar(value.value, left[0])
        left[0] -= len(text)
        return text
    items = list[str]()
    for item in value.value:
        if left[0] <= 0:
            items.append("…")
            break
        left[0] -= 2
        parts = item if value.kind == "dict" else (item,)
        items.append(": ".join(_shown(part, left) for part in parts))
    if not items and value.kind == "set":
        return "set()"
    opening, closing = _BRACKETS[value.kind]
    return opening + ", ".join(items) + ("," if value.kind == "tuple" and len(items) == 1 else "") + closing


def _scalar(value: Any, longest: int) -> str:
    if isinstance(value, str | bytes):
        return one_line(repr(value[: longest + 1]))
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 12_000:
        return f"an integer of {value.bit_length()} bits"
    return repr(value)


def one_line(text: str) -> str:
    """Hostile text as one printable line, without addresses, which differ from run to run."""
    text = _ADDRESS.sub("", text)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _items(value: Plain) -> tuple[Any, ...]:
    if value.kind == "str":
        return tuple(Plain("str", c) for c in value.value)
    if value.kind not in _BRACKETS:
        raise ValueError(f"a {value.kind} has no such view")
    return tuple(k for k, _ in value.value) if value.kind == "dict" else tuple(value.value)


def _as_set(value: Plain) -> Plain:
    ordered = sorted(_items(value), key=_key)
    return Plain("set", tuple(v for i, v in enumerate(ordered) if i == 0 or not same(v, ordered[i - 1])))


def _sorted(value: Plain) -> Plain:
    items = _items(value)
    if len({item.kind for item in items}) > 1:
        raise ValueError("values of several kinds have no order")
    return Plain("list", tuple(sorted(items, key=_sort_key)))


def _sort_key(value: Plain) -> Any:
    if value.kind in ("list", "tuple"):
        return tuple((item.kind, _sort_key(item)) for item in value.value)
    if value.kind not in ("number", "str", "bytes"):
        raise ValueError(f"a {value.kind} has no order")
    return value.value


def _number(function: Callable[[Any], Any]) -> Callable[[Plain], Plain]:
    def view(value: Plain) -> Plain:
        if value.kind != "number":
            raise ValueError(f"a {value.kind} is no number")
        return Plain("number", function(value.value))

    return view


VIEWS: dict[str, Callable[[Plain], Plain]] = {
    "set": _as_set,
    "frozenset": _as_set,
    "sorted": _sorted,
    "list": lambda value: Plain("list", _items(value)),
    "tuple": lambda value: Plain("tuple", _items(value)),
    "len": lambda value: Plain("number", len(_items(value))),
    "abs": _number(abs),
    "bool": lambda value: Plain("number", truthy(value)),
}
"""Functions that a test may wrap around the call, applied outside the sandbox; each raises ValueError for a
value that it does not fit."""


def truthy(value: Plain) -> bool:
    """The truth value in Python; false for a value that is no plain data, because the program could forge
    it."""
    return value.kind not in ("none", "other") and bool(value.value)
