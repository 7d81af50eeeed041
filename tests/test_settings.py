"""Components by name: every list of names, check of settings and error message comes from the registry."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from pydantic import BaseModel

from didact import settings
from didact.errors import UsageError
from didact.settings import Entry, Registry, Section, validate_kwargs, validate_settings


class Gain(Section):
    """A pydantic component."""

    factor: float = 1.0

    def apply(self, x: float) -> float:
        return x * self.factor


class Shift:
    """A plain component."""

    def __init__(self, by: int = 1, seed: int = 0) -> None:
        self.by, self.seed = by, seed

    def apply(self, x: float) -> float:
        return x + self.by


class Bare:
    """A component without settings."""

    def apply(self, x: float) -> float:
        return x


REGISTRY: Registry[Gain | Shift] = Registry(
    "filter",
    "didact.test_filters",
    {
        "gain": Entry(Gain, "multiplies"),
        "double": Entry(Gain, "multiplies by two", {"factor": 2.0}),
        "lazy": Entry("tests.test_settings:Shift", "adds"),
        "bare": Entry(Bare),
    },
    more=lambda: {"hidden": Entry(Gain)},
    prefixes={"times": lambda name: Entry(Gain, defaults={"factor": float(name)})},
    requires=("apply",),
)


@pytest.mark.parametrize(
    ("spec", "given", "result"),
    [
        ("gain", {}, 3.0),
        ("double", {}, 6.0),
        ("double", {"factor": 5}, 15.0),
        ("lazy", {"by": 4}, 7.0),
        ("lazy", {"by": "4"}, 7.0),
        ("bare", {}, 3.0),
        ("hidden", {}, 3.0),
        ("times:7", {}, 21.0),
        ("tests.test_settings:Shift", {}, 4.0),
    ],
)
def test_a_name_makes_a_component_with_its_defaults_and_these_settings(
    spec: str, given: dict[str, object], result: float
) -> None:
    assert REGISTRY.make(spec, given).apply(3.0) == result


def test_context_reaches_only_a_class_that_takes_it() -> None:
    made = REGISTRY.make("tests.test_settings:Shift", seed=9)
    assert isinstance(made, Shift)
    assert made.seed == 9
    assert isinstance(REGISTRY.make("bare", seed=9), Bare)


def test_a_class_in_a_file_is_found(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("class Mine:\n    def apply(self, x):\n        return -x\n\nclass Wrong:\n    pass\n")
    assert REGISTRY.make(f"{file}:Mine").apply(3.0) == -3.0
    with pytest.raises(UsageError, match="apply"):
        REGISTRY.make(f"{file}:Wrong")
    with pytest.raises(UsageError, match="'Mine'"):
        REGISTRY.make(f"{file}:Mone")
    with pytest.raises(UsageError, match=r"nothing\.py"):
        REGISTRY.make(f"{tmp_path / 'nothing.py'}:Mine")


def test_a_file_that_cannot_be_imported_is_a_usage_error_with_its_reason(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("1 / 0\n")
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        REGISTRY.make(f"{file}:Mine")


@pytest.mark.parametrize(
    ("spec", "given", "named"),
    [
        ("gian", {}, "'gain'"),
        ("gain", {"facter": 1}, "'factor'"),
        ("gain", {"factor": "much"}, "factor"),
        ("gain", {"factor": float("nan")}, "factor"),
        ("lazy", {"bye": 1}, "'by'"),
        ("lazy", {"by": 1.5}, "by"),
        ("lazy", {"seed": 1}, "'seed'"),
        ("bare", {"by": 1}, "'by'"),
    ],
)
def test_an_unknown_name_or_setting_and_a_bad_value_are_named(
    spec: str, given: dict[str, object], named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        REGISTRY.make(spec, given, seed=0)


def test_installed_packages_add_names_but_replace_none(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("shift", "tests.test_settings:Shift", "didact.test_filters"),
        EntryPoint("gain", "tests.test_settings:Shift", "didact.test_filters"),
    ]
    monkeypatch.setattr(settings, "entry_points", lambda group: points)
    registry: Registry[Gain | Shift] = Registry("filter", "didact.test_filters", {"gain": Entry(Gain)})
    assert list(registry) == ["gain", "shift"]
    assert isinstance(registry.make("shift"), Shift)
    assert isinstance(registry.make("gain"), Gain)
    assert "shift" in registry.help()


def test_a_key_given_by_mistake_is_not_repeated_in_an_error() -> None:
    class Server(BaseModel):
        base_url: int = 0

    with pytest.raises(UsageError) as error:
        validate_settings(Server, {"base_url": "sk-secret"}, "feedback 'x'")
    assert "sk-secret" not in str(error.value)


def test_arguments_without_a_type_are_passed_as_they_are() -> None:
    def loose(a, b: int = 0):  # type: ignore[no-untyped-def]
        return a, b

    assert validate_kwargs(loose, {"a": [1]}, "f") == {"a": [1]}
