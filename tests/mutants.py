"""A mutation run over the arithmetic that everything rests on: `make mutants`.

    make mutants                      every group
    make mutants GROUPS="losses spans"

mutmut changes one operator, constant or argument at a time in a copy of the project and runs the group's
tests. A mutant that no test notices counts against the score, unless `mutants.yaml` lists it as equivalent,
with the reason. Exits with 1 where fewer than 95 % of the others are noticed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
LEAST = 0.95
ALSO = ("docs", "recipes", "benchmarks", "tests", "pyproject.toml")
CONFIG = """\
[mutmut]
source_paths=src/didact
only_mutate=
{files}
pytest_add_cli_args_test_selection=
{tests}
pytest_add_cli_args=
    -p
    no:cacheprovider
{left_out}
also_copy=
{also}
"""


def lines(names: list[str] | tuple[str, ...]) -> str:
    """A value of several lines."""
    return "\n".join(f"    {name}" for name in names)


def copy_of_project(folder: Path) -> None:
    """The files that git knows, as they are now."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def run_group(group: dict[str, Any], folder: Path, log: Path) -> dict[str, int | None]:
    """The exit code of the tests for each mutant of a group's files; 0 where they noticed nothing."""
    files = [f"src/didact/{name}" for name in group["files"]]
    left_out = [word for name in group.get("left_out", []) for word in ("--deselect", name)]
    config = CONFIG.format(
        files=lines(files), tests=lines(group["tests"]), also=lines(ALSO), left_out=lines(left_out)
    )
    (folder / "setup.cfg").write_text(config)
    with log.open("ab") as out:
        mutmut = [str(Path(sys.executable).with_name("mutmut")), "run"]
        subprocess.run(mutmut, cwd=folder, check=True, stdout=out, stderr=out)
    found: dict[str, int | None] = {}
    for name in files:
        meta = folder / "mutants" / f"{name}.meta"
        found |= json.loads(meta.read_text())["exit_code_by_key"] if meta.exists() else {}
    return found


def change(name: str, folder: Path) -> str:
    """What a mutant changes: its removed and added lines."""
    mutmut = [str(Path(sys.executable).with_name("mutmut")), "show", name]
    shown = subprocess.run(mutmut, cwd=folder, capture_output=True, text=True).stdout
    return "\n".join(line for line in shown.splitlines() if re.match(r"[-+](?![-+])", line))


def equivalent(name: str, diff: str, listed: list[dict[str, str]]) -> bool:
    """Whether an entry of `mutants.yaml` says why no test can notice this mutant."""
    return any(re.search(e["function"], name) and re.search(e["change"], diff, re.DOTALL) for e in listed)


def main() -> None:
    """Run the named groups, or all; print a line a group and the survivors."""
    known = yaml.safe_load((ROOT / "tests" / "mutants.yaml").read_text("utf-8"))
    wanted = sys.argv[1:] or list(known["groups"])
    low = False
    for title in wanted:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            copy_of_project(folder)
            codes = run_group(known["groups"][title], folder, Path(tempfile.gettempdir()) / "mutants.log")
            survivors = {m: change(m, folder) for m, code in codes.items() if code in (0, 33, None)}
            open_ = {m: d for m, d in survivors.items() if not equivalent(m, d, known["equivalent"])}
        counted = len(codes) - (len(survivors) - len(open_))
        score = (counted - len(open_)) / max(1, counted)
        low |= score < LEAST
        print(
            f"{title}: {score:.1%} of {counted} mutants noticed; {len(codes) - counted} equivalent",
            flush=True,
        )
        for mutant, diff in open_.items():
            print(f"  {mutant}\n" + "\n".join(f"    {line}" for line in diff.splitlines()))
    sys.exit(low)


if __name__ == "__main__":
    main()
