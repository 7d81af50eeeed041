"""Every function that a page of docs/algorithms names exists, and every method has a page."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from didact.methods import METHODS, make_method

PAGES = sorted((Path(__file__).parents[1] / "docs" / "algorithms").glob("*.md"))
NAME = re.compile(r"`didact\.([\w.]+)`")


def resolved(path: str) -> Any:
    """A module, or an attribute of one, by its dotted path below `didact`."""
    parts = ["didact", *path.split(".")]
    for i in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:i]))
        except ModuleNotFoundError:
            continue
        for name in parts[i:]:
            found = getattr(found, name)
        return found
    raise AssertionError(path)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_page_names_functions_that_exist(page: Path) -> None:
    names = NAME.findall(page.read_text(encoding="utf-8"))
    assert names, f"{page.name} names no function"
    for name in names:
        assert resolved(name) is not None


def test_every_method_that_trains_weights_is_on_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    missing = [
        n for n in METHODS if make_method(n).trains_weights and not re.search(rf"(`|train ){n}\b", text)
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_every_setting_of_a_method_is_on_its_page(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    owners = {"rltf": ["rltf", "rltf-self"], "sft": ["sft", "sft-dialogues"]}.get(page.stem, [page.stem])
    for name in owners:
        fields = type(make_method(name)).model_fields
        assert [f for f in fields if not re.search(rf"`{f}\b|\b{f}`", text)] == [], name
