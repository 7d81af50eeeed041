"""Runs the cells of a sweep, each an ordinary `didact train` in a process of its own with one thread.

A cell NAME has the run directory OUT/NAME and beside it NAME.yaml (its settings), NAME.log (what it
printed) and NAME.lock. What is finished is never done again, and what was torn is resumed. The lock is
held by the training process itself, through an inherited descriptor, so that after the death of a sweep
its orphans go on undisturbed, and two sweeps on one directory share the work.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from didact.config import is_stored
from didact.errors import Interrupted, TrainingGuard, UsageError
from didact.run_dir import RunDir, write_atomically
from didact.sweep.plan import Cell
from didact.training.signals import SignalRecorder

POLL_SECONDS = 0.1
ENDED = ("finished", "failed")
Watch: TypeAlias = Callable[["dict[str, CellState]"], None]
"""Called repeatedly with the states of all cells by name."""


@dataclass(frozen=True)
class CellState:
    """How far a cell is."""

    status: Literal["waiting", "running", "elsewhere", "finished", "failed"]
    reason: str = ""
    """Why it failed: its last words, and where all of them are."""
    code: int = 0
    """The exit code of a failed cell."""


def run_cells(
    cells: Sequence[Cell], out: Path, *, workers: int, watch: Watch = lambda states: None
) -> dict[str, CellState]:
    """Run what is not finished, some cells side by side; one that fails does not stop the others.

    Args:
        cells: They start in this order.
        workers: Cells at a time, at least 1.
        watch: Called a few times a second, and once at the end.

    Returns:
        The state of every cell by name: finished or failed.

    Raises:
        UsageError: a directory holds a cell with other settings; nothing was started.
        Interrupted: Ctrl-C or SIGTERM came; the running cells have saved what they had.
    """
    for cell in cells:
        check_settings(cell, out)
    return _Pool(cells, out, workers, watch).run()


def check_settings(cell: Cell, out: Path) -> None:
    """Refuse a run directory whose settings are not the cell's."""
    stored = RunDir(out / cell.name).config
    if stored.exists() and not is_stored(cell.config, stored):
        raise UsageError(
            f"{stored.parent} holds a run with other settings than cell {cell.name!r} has now: remove it, "
            "or name a new --out"
        )


def is_finished(cell: Cell, out: Path) -> bool:
    """Has the cell's run written how it ended? A run in which no weight changed has, too."""
    try:
        return isinstance(json.loads(RunDir(out / cell.name).result.read_bytes()), dict)
    except (FileNotFoundError, ValueError):
        return False


def train_command(cell: Cell, path: Path) -> list[str]:
    """`didact train` for a new cell, `didact train --resume` for one that was torn."""
    train = [sys.executable, "-m", "didact.cli.main", "train"]
    if (path / "config.yaml").exists():
        return [*train, "--resume", str(path)]
    settings = path.with_name(f"{path.name}.yaml")
    write_atomically(settings, cell.config.to_yaml())
    return [*train, cell.config.method, "--config", str(settings), "--out", str(path)]


class _Pool:
    """The cells that wait, those that run, and how the others ended."""

    def __init__(self, cells: Sequence[Cell], out: Path, workers: int, watch: Watch) -> None:
        self.cells = {cell.name: cell for cell in cells}
        self.out, self.workers, self.watch = out, workers, watch
        self.states = {
            name: CellState("finished" if is_finished(cell, out) else "waiting")
            for name, cell in self.cells.items()
        }
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def run(self) -> dict[str, CellState]:
        with SignalRecorder() as signals:
            came = signals.received
            try:
                while not came and any(s.status not in ENDED for s in self.states.values()):
                    self._start_some()
                    self.watch(self.states)
                    time.sleep(POLL_SECONDS)
                    self._collect_ended()
            finally:
                self._end_all(came)
            self.watch(self.states)
            if came and any(state.status != "finished" for state in self.states.values()):
                finished = sum(state.status == "finished" for state in self.states.values())
                raise Interrupted(
                    f"stopped by {came[0]} with {finished} of {len(self.cells)} cells finished in "
                    f"{self.out}: the same command goes on from here"
                )
        return self.states

    def _start_some(self) -> None:
        for name, state in self.states.items():
            if state.status in ("waiting", "elsewhere") and len(self.running) < self.workers:
                self._start(name)

    def _start(self, name: str) -> None:
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.states[name] = CellState("elsewhere")
                return
            # The holder of the lock until now may have finished the cell.
            if is_finished(self.cells[name], self.out):
                self.states[name] = CellState("finished")
                return
            with path.with_name(f"{path.name}.log").open("ab") as log:
                # A session of its own: the terminal's Ctrl-C reaches this process alone, which passes it on.
                self.running[name] = subprocess.Popen(
                    train_command(self.cells[name], path),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
                    start_new_session=True,
                    pass_fds=[lock.fileno()],
                )
        self.states[name] = CellState("running")

    def _collect_ended(self) -> None:
        for name, process in list(self.running.items()):
            if process.poll() is not None:
                del self.running[name]
                self._note(name, process.returncode)

    def _note(self, name: str, code: int) -> None:
        no_weight_changed = code == TrainingGuard.exit_code
        if (code == 0 or no_weight_changed) and is_finished(self.cells[name], self.out):
            self.states[name] = CellState("finished")
            return
        log = (self.out / name).with_name(f"{Path(name).name}.log")
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1] if lines else "it said nothing"
        self.states[name] = CellState("failed", f"exit code {code}: {last} (all of it: {log})", code)

    def _end_all(self, came: Sequence[str]) -> None:
        """Ask what still runs to save and leave, and wait until it has; a second signal kills it."""
        for process in self.running.values():
            process.terminate()
        while self.running:
            if len(came) > 1:
                for process in self.running.values():
                    process.kill()
            time.sleep(POLL_SECONDS)
            self._collect_ended()
