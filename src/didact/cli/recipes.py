"""`didact recipes`: settings to start from, and the numbers that came out where they were run."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from didact.errors import UsageError, did_you_mean

recipes = typer.Typer(
    help="Settings to start from, with the numbers that came out where they were run.", no_args_is_help=True
)


@recipes.command("list")
def list_() -> None:
    """Every recipe with its first sentence."""
    for name, folder in find_recipes().items():
        lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
        title = next((line.lstrip("# ") for line in lines if line.strip()), "")
        typer.echo(f"{name:24} {title}")


@recipes.command("show")
def show(name: Annotated[str, typer.Argument(help="A recipe's name.")]) -> None:
    """A recipe's README and its settings."""
    folder = _recipe(name)
    typer.echo((folder / "README.md").read_text(encoding="utf-8"))
    config = folder / "config.yaml"
    if config.exists():
        typer.echo(f"--- {config}\n{config.read_text(encoding='utf-8')}", nl=False)


def find_recipes() -> dict[str, Path]:
    """Recipe folders by name: those of a checkout, else those that were installed with the package."""
    package = Path(str(resources.files("didact")))
    for root in (package.parent.parent / "recipes", package / "recipes"):
        if root.is_dir():
            return {p.parent.name: p.parent for p in sorted(root.glob("*/README.md"))}
    return {}


def recipe_file(name: str, file: str = "config.yaml") -> Path:
    """The path that an option names: that file of the recipe for `recipe:NAME`, else the path itself."""
    if not name.startswith("recipe:"):
        return Path(name)
    path = _recipe(name.removeprefix("recipe:")) / file
    if not path.exists():
        raise UsageError(f"recipe {path.parent.name!r} has no {file}: see `didact recipes show`")
    return path


def _recipe(name: str) -> Path:
    found = find_recipes()
    if name not in found:
        raise UsageError(f"unknown recipe {name!r}: {did_you_mean(name, found)}")
    return found[name]
