"""Checkpoints that are whole or not there: written aside, synced, renamed, with a manifest of hashes."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from didact.engines.base import Engine
from didact.errors import CheckpointError
from didact.jsonl import sync
from didact.types import Record, Rollout

MANIFEST = "manifest.json"
STATE = "state.json"
KEEP = 2
"""This many of the newest checkpoints are kept."""


class State(Record):
    """Where a run stands: all that is not in the engine or in the run's files."""

    step: Annotated[int, Field(ge=0)]
    """Steps done."""
    sampled_tokens: int = 0
    feedback_tokens: int = 0
    updates: int = 0
    """Optimizer steps taken; fewer than steps where whole batches had no signal."""
    memory: dict[str, float] = Field(default_factory=dict)
    """What the method keeps from step to step; see `rollouts.base.Context`."""
    initial_weights: str = ""
    """Hash of the trainable weights before the first step, for the no-op guard."""

    def advanced(
        self, rollouts: Sequence[Rollout], reward_tokens: int, *, updates: int, memory: dict[str, float]
    ) -> State:
        """The state after one more step.

        Args:
            rollouts: Of the step.
            reward_tokens: Tokens that a judge of rewards generated for it.
            updates: Optimizer steps taken in it.
            memory: What the method keeps.
        """
        return self.model_copy(
            update={
                "step": self.step + 1,
                "sampled_tokens": self.sampled_tokens + sum(r.sampled_tokens for r in rollouts),
                "feedback_tokens": self.feedback_tokens
                + sum(r.feedback_tokens for r in rollouts)
                + reward_tokens,
                "updates": self.updates + updates,
                "memory": memory,
            }
        )


def save_checkpoint(folder: Path, engine: Engine, state: State) -> Path:
    """Write `folder/step-NNNNNN`; only after it is whole and synced are older ones removed.

    A whole checkpoint of this step stays as it is: the same step of the same run has the same state.

    Returns:
        The checkpoint's path.
    """
    final = folder / f"step-{state.step:06d}"
    if final.exists():
        try:
            check(final)
        except CheckpointError:
            shutil.rmtree(final)
        else:
            return final
    for left_over in folder.glob(".tmp-*"):
        shutil.rmtree(left_over)
    aside = folder / f".tmp-{final.name}"
    aside.mkdir(parents=True)
    engine.save(aside)
    (aside / STATE).write_text(state.model_dump_json(indent=1))
    files = sorted(p for p in aside.rglob("*") if p.is_file())
    hashes = {str(p.relative_to(aside)): _sha256(p) for p in files}
    (aside / MANIFEST).write_text(json.dumps(hashes, indent=1))
    for path in (*files, aside / MANIFEST, aside):
        sync(path)
    aside.rename(final)
    sync(folder)
    for old in _checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old)
    return final


def load_checkpoint(folder: Path, engine: Engine) -> tuple[State | None, list[str]]:
    """Load the newest whole checkpoint into the engine.

    Returns:
        Its state (None where there is no whole one), and a sentence for each torn one passed over.
    """
    torn = []
    for path in reversed(_checkpoints(folder)):
        try:
            state = check(path)
        except CheckpointError as error:
            torn.append(str(error))
            continue
        engine.load(path)
        return state, torn
    return None, torn


def check(path: Path) -> State:
    """Verify a checkpoint's files against its manifest and read its state.

    Raises:
        CheckpointError: naming the file that is missing or differs.
    """
    try:
        hashes = json.loads((path / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is torn: its {MANIFEST} cannot be read ({error})") from None
    if not isinstance(hashes, dict) or STATE not in hashes:
        raise CheckpointError(f"{path} is torn: its {MANIFEST} does not list {STATE}")
    for name, expected in hashes.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{path} is torn: {name} is missing")
        if _sha256(file) != expected:
            raise CheckpointError(f"{path} is torn: {name} does not match its hash")
    try:
        return State.model_validate_json((path / STATE).read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{path} is torn: its {STATE} cannot be read ({error})") from None


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first; unfinished ones have another name."""
    return sorted(p for p in folder.glob("step-*") if re.fullmatch(r"step-\d{6,}", p.name))


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
