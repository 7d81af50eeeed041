"""Settings from a config file, checked against the parameters of what they are for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from didact.errors import UsageError, did_you_mean


def checked(function: Callable[..., Any], settings: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The settings with the types of a function's parameters.

    Only strings are converted, because YAML reads 1e-1 as one; everything else must fit as it is.

    Args:
        function: Whose parameters are meant.
        settings: Values by parameter.
        what: Names the function in a message, as "task 'jsonl'".

    Raises:
        UsageError: an unknown setting (with the nearest valid one), or a value of another type.
    """
    types = get_type_hints(function)
    valid = [name for name in inspect.signature(function).parameters if name not in ("self", "seed")]
    values = {}
    for key, value in settings.items():
        if key not in valid:
            raise UsageError(f"{what} has no setting {key!r}: {did_you_mean(key, valid)}")
        try:
            values[key] = TypeAdapter(types[key]).validate_python(value, strict=not isinstance(value, str))
        except ValidationError as error:
            cure = "; leave the key out for its default" if value is None else ""
            problem = error.errors()[0]["msg"]
            raise UsageError(f"{what}: {key} = {value!r}: {problem}{cure}") from None
    return values
