"""Every YAML file of the recipes passes a dry run: its settings are those of methods, tasks and sources."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from didact.config import read_yaml
from tests.helpers import didact

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "recipes").rglob("*.yaml"))
if not FILES:
    pytest.skip("there are no recipes", allow_module_level=True)
SWEEPS = [path for path in FILES if "methods" in read_yaml(path)]
RUNS = [path for path in FILES if path not in SWEEPS]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT / "recipes"))


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_a_run_passes_a_dry_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the files name their data from there
    method = read_yaml(path)["method"]
    assert didact("train", method, "--config", path, "--model", "tiny", "--dry-run") == 0


@pytest.mark.parametrize("path", SWEEPS, ids=name)
def test_a_sweep_passes_a_dry_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = importlib.util.spec_from_file_location(
        "programs", ROOT / "recipes" / "text2grad" / "programs.py"
    )
    assert programs is not None
    assert programs.loader is not None
    module = importlib.util.module_from_spec(programs)
    programs.loader.exec_module(module)
    module.write(tmp_path / "runs" / "text2grad" / "code")  # which warm_start.py would write
    monkeypatch.chdir(tmp_path)
    assert didact("sweep", path, "--dry-run") == 0
