"""Settings, and components by name: the one place that checks both.

A component (method, feedback source, task, engine, …) is a class. Its settings are the fields of a pydantic
model, or the parameters of its `__init__`. A `Registry` finds the class of a name and makes an instance:

    rltf-sd                     a name that ships
    my-method                   a name of an installed package: entry-point group `didact.methods`, …
    my_file.py:MyMethod         a class in a file
    my_package.module:MyMethod  a class in a module
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, Generic, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from didact.errors import UsageError, did_you_mean

S = TypeVar("S", bound=BaseModel)
T = TypeVar("T")

SECRET_PRONE = ("api_key_env", "base_url")
"""Settings into which a key may be put by mistake: error messages do not repeat their values."""


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys, NaN and Inf."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def validate_settings(kind: type[S], settings: Mapping[str, Any], owner: str) -> S:
    """An instance of a pydantic class from plain values; `owner` names it in errors, as "task 'math'".

    Raises:
        UsageError: an unknown setting (with the nearest valid one), or a value of another type or range.
    """
    _check_keys(kind, settings, owner)
    try:
        return kind.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise UsageError(f"{owner} needs the setting {key!r}") from None
        shown = "" if key in SECRET_PRONE else f" = {first['input']!r}"
        raise UsageError(f"{owner}: {key}{shown}: {first['msg']}") from None


def _check_keys(kind: type[BaseModel], settings: Mapping[str, Any], owner: str, prefix: str = "") -> None:
    """Refuse unknown keys, in sections too, with the nearest valid one."""
    for key, value in settings.items():
        if key in kind.model_fields:
            annotation = kind.model_fields[key].annotation
            kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
            sections = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
            if len(sections) == 1 and isinstance(value, Mapping):
                _check_keys(sections[0], value, owner, f"{prefix}{key}.")
        elif kind.model_config.get("extra") != "allow":
            hint = did_you_mean(str(key), kind.model_fields)
            raise UsageError(f"{owner} has no setting {prefix + str(key)!r}: {hint}")


def validate_kwargs(
    function: Callable[..., Any],
    settings: Mapping[str, Any],
    owner: str,
    *,
    internal: tuple[str, ...] = ("seed",),
) -> dict[str, Any]:
    """Settings as keyword arguments of a function or class, without those that are `internal`.

    Only strings are converted to the types of the parameters, because YAML reads 1e-1 as one; any other value
    must have the type.

    Raises:
        UsageError: an unknown setting (with the nearest valid one), or a value of another type.
    """
    annotated = getattr(function, "__init__", function) if isinstance(function, type) else function
    types, parameters = get_type_hints(annotated), inspect.signature(function).parameters
    valid = [
        name for name, p in parameters.items() if name not in ("self", *internal) and p.kind != p.VAR_KEYWORD
    ]
    is_open = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
    values = {}
    for key, value in settings.items():
        if key not in valid and not is_open:
            raise UsageError(f"{owner} has no setting {key!r}: {did_you_mean(key, valid)}")
        if key not in types:
            values[key] = value
            continue
        try:
            values[key] = TypeAdapter(types[key]).validate_python(value, strict=not isinstance(value, str))
        except ValidationError as error:
            cure = "; leave the key out for its default" if value is None else ""
            raise UsageError(f"{owner}: {key} = {value!r}: {error.errors()[0]['msg']}{cure}") from None
    return values


def _load_module(place: str, owner: str) -> ModuleType:
    """A user's own code: "file.py" or "package.module"."""
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        path = Path(place)
        if not path.is_file():
            raise UsageError(f"{owner}: there is no file {path}: give its path")
        name = f"didact_user_code_{path.stem}"  # a name of its own: a file json.py must not hide json
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{owner}: {place} cannot be imported: {type(error).__name__}: {error}") from error


def load_class(spec: str, owner: str) -> Callable[..., Any]:
    """The class or function that "file.py:Name" or "package.module:Name" names.

    Raises:
        UsageError: `owner` needs a file, a module or a name that does not exist or cannot be imported.
    """
    place, _, name = spec.rpartition(":")
    module = _load_module(place, owner)
    found = getattr(module, name, None)
    if not callable(found):
        names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise UsageError(f"{owner}: no {name!r} in {place}: {did_you_mean(name, names)}")
    kind: Callable[..., Any] = found
    return kind


@dataclass(frozen=True)
class Entry:
    """A name's class, its defaults where they differ from the class's own, and a line for `--help`."""

    target: str | Callable[..., Any]
    """The class, or "package.module:Class", imported when it is used."""
    summary: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)


class Registry(Generic[T]):
    """Components of one kind by name, with their settings, `--help` and "did you mean".

    Args:
        group: The entry-point group in which installed packages announce theirs; None for none.
        more: Further names that are costly to list, as the generators of a library; called when needed.
        prefixes: "PREFIX:NAME" → the entry of NAME, where a family of names is open.
        requires: Attributes that an instance must have.
    """

    def __init__(
        self,
        kind: str,
        group: str | None,
        entries: Mapping[str, Entry],
        *,
        more: Callable[[], Mapping[str, Entry]] = dict,
        prefixes: Mapping[str, Callable[[str], Entry]] | None = None,
        requires: tuple[str, ...] = (),
    ) -> None:
        self.kind, self.group, self.requires = kind, group, requires
        self._entries, self._more, self._prefixes = dict(entries), more, dict(prefixes or {})

    def __iter__(self) -> Iterator[str]:
        """The names that ship, then those of installed packages."""
        return iter({**self._entries, **self._installed})

    def __contains__(self, name: object) -> bool:
        return name in {**self._entries, **self._installed}

    def help(self) -> str:
        """All names, for `--help`."""
        return f"{', '.join(self)}, or your own as file.py:Class."

    def entry(self, spec: str) -> Entry:
        """The entry of a name, a "PREFIX:NAME" or a "place:Class"; raises as `make`."""
        owner = f"{self.kind} {spec!r}"
        if found := self._entries.get(spec) or self._installed.get(spec):
            return found
        prefix, colon, name = spec.partition(":")
        if colon and prefix in self._prefixes:
            return self._prefixes[prefix](name)
        if colon and _is_module(spec.rpartition(":")[0]):
            return Entry(load_class(spec, owner))
        more = self._more()
        if spec in more:
            return more[spec]
        raise UsageError(
            f"unknown {owner}: {did_you_mean(spec, [*self, *more])}, or your own as file.py:Class"
        )

    def find(self, spec: str) -> Callable[..., Any]:
        """The class of a name; raises as `make`."""
        target = self.entry(spec).target
        return load_class(target, f"{self.kind} {spec!r}") if isinstance(target, str) else target

    def make(self, spec: str, settings: Mapping[str, Any] | None = None, **context: Any) -> T:
        """An instance with the defaults of the name and these settings.

        Args:
            spec: A name, or "file.py:Class".
            settings: Fields of a pydantic class, or arguments of `__init__`.
            **context: Values that are no settings, as `seed`, for a class whose `__init__` takes them.

        Raises:
            UsageError: unknown name or setting (with the nearest valid one), a value out of range, or a class
                that refuses the settings or lacks a method of its kind.
        """
        owner, cls = f"{self.kind} {spec!r}", self.find(spec)
        values = {**self.entry(spec).defaults, **(settings or {})}
        if isinstance(cls, type) and issubclass(cls, BaseModel):
            made: Any = validate_settings(cls, values, owner)
        else:
            made = self._call(cls, values, context, owner)
        return self.check(made, owner)

    def check(self, made: Any, owner: str) -> T:
        """An instance, if it has what its kind needs; a UsageError names the attribute that it lacks."""
        missing = [name for name in self.requires if not hasattr(made, name)]
        if missing and not hasattr(made, "build"):
            raise UsageError(f"{owner} is a {type(made).__name__} without {missing[0]!r}: see docs/api.md")
        component: T = made
        return component

    def _call(
        self, cls: Callable[..., Any], values: Mapping[str, Any], context: Mapping[str, Any], owner: str
    ) -> Any:
        kwargs = validate_kwargs(cls, values, owner, internal=tuple(context))
        parameters = inspect.signature(cls).parameters
        kwargs |= {key: value for key, value in context.items() if key in parameters}
        for name, parameter in parameters.items():
            required = parameter.default is parameter.empty and parameter.kind not in _VARIADIC
            if required and name not in kwargs:
                raise UsageError(f"{owner} needs the setting {name!r}")
        try:
            return cls(**kwargs)
        except UsageError:
            raise
        except TypeError as error:
            raise UsageError(f"{owner} cannot be made with {dict(values)}: {error}") from error

    @cached_property
    def _installed(self) -> dict[str, Entry]:
        """What installed packages announce, except names that ship."""
        found = entry_points(group=self.group) if self.group else ()
        return {
            point.name: Entry(f"{point.module}:{point.attr}", f"from {point.module}")
            for point in found
            if point.name not in self._entries
        }


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _is_module(place: str) -> bool:
    """Could it be a file or a module? Names such as "judge:local" have neither before their colon."""
    if place.endswith(".py"):
        return True
    try:
        return importlib.util.find_spec(place) is not None
    except (ImportError, ValueError):
        return "." in place
