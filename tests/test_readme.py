"""What the README and the docs show, runs or at least is understood."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from didact.cli.main import app
from tests.helpers import didact
from tests.test_architecture import FLOORS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += sorted(p for folder in ("docs", "recipes", "benchmarks") for p in (ROOT / folder).rglob("*.md"))


def test_the_python_example_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(import didact\n\nrun = .*?)```", README, re.DOTALL)
    quick = code.replace("steps=60", "steps=1, eval={'problems': 2}").replace("=32", "=2")
    assert quick.count("'problems': 2") == 1
    monkeypatch.chdir(tmp_path)
    exec(compile(quick, "README.md", "exec"), {})
    assert (tmp_path / "runs" / "first" / "result.json").exists()


def test_the_own_method_trains_by_the_command_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(import didact\n\n+class .*?)```", README, re.DOTALL)
    (command,) = re.findall(r"^didact (train my_method\.py:\S+ .*)$", README, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    Path("my_method.py").write_text(code, encoding="utf-8")
    quick = ["steps=1", "problems_per_step=4", "sampling.max_tokens=12", "eval={problems: 2}"]
    quick += ["task.settings={min_word_len: 6, max_word_len: 7}", "feedback.settings.level=reveal"]
    assert didact(*command.split(), *(word for setting in quick for word in ("--set", setting))) == 0
    assert (tmp_path / "runs" / "mine" / "result.json").exists()


def shown_commands(page: Path, program: str) -> Iterator[str]:
    """The lines of a page's code blocks, fenced or indented, that begin with a program's name."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    fenced = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    indented = re.findall(r"^    (.*)$", text, re.MULTILINE)
    for line in (*fenced.splitlines(), *indented):
        if line.strip().startswith(f"{program} "):
            yield line.strip()


def shown_to_didact() -> list[tuple[str, str]]:
    found = {(str(page.relative_to(ROOT)), line) for page in PAGES for line in shown_commands(page, "didact")}
    return sorted(found)


@pytest.mark.parametrize(("page", "line"), shown_to_didact())
def test_a_command_that_a_page_shows_is_understood(page: str, line: str) -> None:
    command: click.Command = typer.main.get_command(app)
    words = shlex.split(line, comments=True)[1:]
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)


def test_there_are_commands_to_check() -> None:
    assert len(shown_to_didact()) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_scripts_recipes_and_targets_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    scripts = {line.split()[1] for line in shown_commands(page, "python") if line.split()[1].endswith(".py")}
    assert [name for name in scripts if not (ROOT / name).exists()] == []
    recipes = re.findall(r"\brecipe:([\w/]+)", text)
    assert [name for name in recipes if not list((ROOT / "recipes").glob(f"{name}*"))] == []
    targets = set(
        re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets


def test_the_reference_of_public_names_is_current() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "api.py"))["page"]
    shown = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert shown == page(), "run `python docs/api.py`"


def test_the_design_page_has_every_package() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"## The folders\n(.*?)\nBeside", page, re.DOTALL)
    named = set(re.findall(r"`(\w+)/?`", "".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE))))
    assert set(FLOORS) <= named


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    dead = [link for link in links if not link.startswith("http") and not (page.parent / link).exists()]
    assert dead == []
