"""What is installed, and by which name: `didact` on the Python index belongs to somebody else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from didact.errors import install_command

ROOT = Path(__file__).parent.parent
NAME = "didact-rl"

INSTALLERS = (
    r"\b(?:pip3?\s+(?:install|download|wheel)|uv\s+(?:add|tool)|uvx|pipx|poetry\s+add|conda\s+install)\b"
)
STRANGER = re.compile(
    rf"""{INSTALLERS}[^;&|#\n]*?(?<![\w./=:@-])didact(?![\w./-])  # an installer's argument
    | \bdidact\[[a-z]                                    # with an extra
    | \b(?:version|distribution|metadata|requires)\(["']didact["']\)
    """,
    re.VERBOSE,
)


def instructions(text: str) -> Iterator[str]:
    """The parts of a text that would install or look up another's package."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return (match.group() for match in STRANGER.finditer(joined))


@pytest.mark.parametrize(
    "text",
    [
        "pip install didact",
        "python -m pip install -U 'didact[math]'",
        "pip install verl==0.9.1 didact",
        "pip install --quiet \\\n    didact==0.1.0",
        "uv add didact",
        "uv pip install didact",
        "pipx install didact",
        "uvx didact demo",
        'requires = ["didact[math]>=0.1"]',
        "importlib.metadata.version('didact')",
    ],
)
def test_an_instruction_for_the_strangers_package_is_found(text: str) -> None:
    assert list(instructions(text))


@pytest.mark.parametrize(
    "text",
    [
        "pip install 'didact-rl[math]' && didact demo",
        "pip install verl==0.9.1 didact-rl",
        "pip install dist/didact_rl-0.1.0-py3-none-any.whl",
        "pip install -e .; didact train grpo",
        "pip install git+https://example.org/didact.git",
        "import didact",
    ],
)
def test_an_instruction_for_ours_is_not(text: str) -> None:
    assert not list(instructions(text))


def text_files() -> list[Path]:
    """Every page, script and setting of the project."""
    kinds = {".py", ".md", ".toml", ".yaml", ".txt", ".j2", ".html", ".sh"}
    folders = [ROOT / name for name in ("src", "docs", "recipes", "benchmarks", "tests")]
    inside = [p for folder in folders for p in folder.rglob("*") if p.suffix in kinds]
    beside = [*ROOT.glob("*.md"), *ROOT.glob("*.txt"), ROOT / "pyproject.toml", ROOT / "Makefile"]
    return [p for p in (*inside, *beside) if p != Path(__file__)]


def test_nothing_would_install_the_strangers_package() -> None:
    files = text_files()
    assert len(files) > 100
    found = {
        str(p.relative_to(ROOT)): wrong for p in files if (wrong := list(instructions(p.read_text("utf-8"))))
    }
    assert found == {}


def test_every_extra_that_a_message_names_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["name"] == NAME
    named = {
        extra
        for path in text_files()
        for extras in re.findall(
            rf"{NAME}\[([a-z,]+)\]|install_command\(['\"](\w+)['\"]\)", path.read_text("utf-8")
        )
        for extra in "".join(extras).split(",")
    }
    assert named
    assert named <= set(project["optional-dependencies"])
    assert install_command("math").startswith(f"pip install '{NAME}[math]'")


def engines_python(tmp_path: Path, *folders: Path) -> str:
    """The interpreter that the Makefile picks for `make test-engines`."""
    show = tmp_path / "show.mk"
    show.write_text("include Makefile\nshow: ; @echo $(ENGINES_PYTHON)\n")
    make = shutil.which("make")
    if make is None:
        pytest.skip("there is no make")
    environment = {
        "PATH": os.pathsep.join(map(str, folders)),
        "HOME": str(tmp_path),
        "PYENV_ROOT": str(tmp_path / "pyenv"),
    }
    done = subprocess.run(
        [make, "--no-print-directory", "-f", show, "show"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def executable(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_newer_python_is_found_with_pyenv_and_with_uv_but_not_an_empty_shim(tmp_path: Path) -> None:
    shims = executable(tmp_path / "shims" / "python3.13", "exit 127").parent
    executable(tmp_path / "shims" / "python3.12", "exit 127")
    tools = executable(tmp_path / "tools" / "uv", f"echo {tmp_path}/uv-$3").parent
    executable(tmp_path / "uv-3.13", "exit 0")
    assert engines_python(tmp_path, shims, tools) == f"{tmp_path}/uv-3.13"
    held = executable(tmp_path / "pyenv" / "versions" / "3.12.9" / "bin" / "python", "exit 0")
    assert engines_python(tmp_path, shims, tools) == str(held)
