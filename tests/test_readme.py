"""What the README says, runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    quick = code.replace("steps=60", "steps=1, eval={'problems': 2}").replace("=32", "=2")
    assert quick.count("'problems': 2") == 1
    monkeypatch.chdir(tmp_path)
    exec(compile(quick, "README.md", "exec"), {})
    assert (tmp_path / "runs" / "first" / "result.json").exists()


def test_the_file_map_names_files_that_exist_and_all_of_them() -> None:
    (block,) = re.findall(r"```\nsrc/didact/\n(.*?)```", README, re.DOTALL)
    package = ROOT / "src" / "didact"
    sources = {p for p in package.rglob("*.py") if p.name != "__init__.py" and p.parent.name != "cli"}
    missing = [str(p.relative_to(package)) for p in sources if not re.search(rf"\b{p.name}\b", block)]
    assert missing == []
    named = set(re.findall(r"[\w/]+\.py\b", block))
    known = {p.name for p in (*package.rglob("*.py"), *(ROOT / "recipes").rglob("*.py"))}
    assert [name for name in named if name.split("/")[-1] not in known] == []


def test_links_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    dead = [
        f"{page.name}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
        if not link.startswith("http") and not (page.parent / link).exists()
    ]
    assert dead == []
