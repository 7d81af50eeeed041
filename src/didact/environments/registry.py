"""An environment from its name on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from didact.environments.base import Environment
from didact.environments.guessing import GuessNumber, GuessWord
from didact.environments.textarena import TextArena
from didact.errors import UsageError, did_you_mean
from didact.settings import load_module, validate_kwargs

BUILT_IN: dict[str, Callable[..., Environment]] = {"guess-number": GuessNumber, "guess-word": GuessWord}
_ARENA = "textarena"


def make_environment(spec: str, settings: Mapping[str, Any] | None = None) -> Environment:
    """Make an environment; each is for one episode at a time.

    Args:
        spec: "guess-number", "guess-word", "textarena:GAME" as "textarena:GuessTheNumber-v0", or a class
            of your own as "file.py:Class" or "package.module:Class".
        settings: Arguments of its class.

    Raises:
        UsageError: an unknown name or setting (with the nearest valid one), or what the class refuses.
    """
    given = dict(settings or {})
    place, colon, name = spec.rpartition(":")
    if place == _ARENA:
        return TextArena(name, **_checked(TextArena, given, spec))
    if not colon:
        if spec not in BUILT_IN:
            raise UsageError(
                f"unknown environment {spec!r}: {did_you_mean(spec, BUILT_IN)}, 'textarena:GAME' or "
                "'file.py:Class'"
            )
        kind = BUILT_IN[spec]
        return kind(**_checked(kind, given, spec))
    return _own(place, name, spec, given)


def _checked(kind: Any, settings: Mapping[str, Any], spec: str) -> dict[str, Any]:
    if "name" in settings:
        raise UsageError(f"environment {spec!r} has its name already: leave the setting 'name' out")
    return validate_kwargs(kind.__init__, settings, f"environment {spec!r}")


def _own(place: str, name: str, spec: str, settings: Mapping[str, Any]) -> Environment:
    """A user's own class, made."""
    module = load_module(place, f"environment {spec!r}")
    kind = getattr(module, name, None)
    if not callable(kind):
        names = [n for n, value in vars(module).items() if isinstance(value, type)]
        raise UsageError(f"environment {spec!r}: no class {name!r} in {place}: {did_you_mean(name, names)}")
    try:
        made = kind(**settings)
    except Exception as error:  # a user's own code
        raise UsageError(
            f"environment {spec!r} cannot be made with {dict(settings)}: {type(error).__name__}: {error}"
        ) from error
    for method in ("reset", "step"):
        if not callable(getattr(made, method, None)):
            raise UsageError(f"environment {spec!r} has no method {method!r}: see didact.environments.base")
    environment: Environment = made
    return environment
