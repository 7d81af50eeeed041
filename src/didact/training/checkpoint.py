"""What a run goes on from: checkpoints, and the hashes of its inputs, which must be the same then.

A checkpoint is whole or not there: written beside, synced, renamed, with a manifest of hashes.

step-000025/  weights.safetensors …   the engine's files (`Engine.save`)
              state.json              `State`, but for the method's state
              method_state.safetensors
              manifest.json           sha256 of each file
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from didact._version import __version__
from didact.build.components import RunComponents
from didact.distributed import on_main_process
from didact.engines.base import Engine, tokenizer_hash
from didact.errors import CheckpointError, UsageError
from didact.jsonl import sync
from didact.rollouts.base import MethodState
from didact.run_dir import RunDir, write_atomically
from didact.types import Record, Rollout

MANIFEST = "manifest.json"
STATE = "state.json"
METHOD_STATE = "method_state.safetensors"
INPUTS = "inputs.json"
"""The inputs, in the run directory."""
KEEP = 2
"""This many of the newest checkpoints are kept."""


class State(Record):
    """Everything of a run that is neither in the engine nor in the run's files."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)

    step: Annotated[int, Field(ge=0)]
    """Steps done."""
    sampled_tokens: int = 0
    feedback_tokens: int = 0
    updates: int = 0
    """Optimizer steps taken; fewer than steps where whole batches had no signal."""
    method_state: MethodState = Field(default_factory=dict, exclude=True)
    """`StepContext.method_state` after the last step; in a file of its own."""
    initial_weights: str = ""
    """Hash of the trainable weights before the first step, for the no-op guard."""

    def advanced(
        self, rollouts: Sequence[Rollout], reward_tokens: int, *, updates: int, method_state: MethodState
    ) -> State:
        """The state after one more step, in which a judge of rewards generated `reward_tokens`."""
        feedback_tokens = sum(r.feedback_tokens for r in rollouts) + reward_tokens
        return self.model_copy(
            update={
                "step": self.step + 1,
                "sampled_tokens": self.sampled_tokens + sum(r.sampled_tokens for r in rollouts),
                "feedback_tokens": self.feedback_tokens + feedback_tokens,
                "updates": self.updates + updates,
                "method_state": method_state,
            }
        )


def save_checkpoint(folder: Path, engine: Engine, state: State) -> Path:
    """Write `folder/step-NNNNNN` and return it; only after it is whole and synced are older ones removed.

    A whole checkpoint of this step stays as it is: the same step of the same run has the same state. With
    several processes every rank has to call it.

    Raises:
        UsageError: the method's state holds something else than floats and numpy arrays.
    """
    final = folder / f"step-{state.step:06d}"
    arrays = _as_arrays(state.method_state)
    aside = _begin(final)
    if aside is not None:
        engine.save(aside)
        _complete(aside, final, state, arrays)
    return final


@on_main_process
def _begin(final: Path) -> Path | None:
    """A new folder to write into; None where a whole checkpoint is there."""
    if final.exists():
        try:
            check(final)
        except CheckpointError:
            shutil.rmtree(final)
        else:
            return None
    for left_over in final.parent.glob(".tmp-*"):
        shutil.rmtree(left_over)
    aside = final.with_name(f".tmp-{final.name}")
    aside.mkdir(parents=True)
    return aside


@on_main_process
def _complete(aside: Path, final: Path, state: State, arrays: dict[str, np.ndarray]) -> None:
    (aside / STATE).write_text(state.model_dump_json(indent=1))
    if arrays:
        save_file(arrays, aside / METHOD_STATE)
    files = sorted(p for p in aside.rglob("*") if p.is_file())
    hashes = {str(p.relative_to(aside)): _sha256(p) for p in files}
    (aside / MANIFEST).write_text(json.dumps(hashes, indent=1))
    for path in (*files, aside / MANIFEST, aside):
        sync(path)
    aside.rename(final)
    sync(final.parent)
    for old in _checkpoints(final.parent)[:-KEEP]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path, engine: Engine) -> tuple[State | None, list[str]]:
    """Load the newest whole checkpoint into the engine.

    The result is its state (None where there is no whole one), and an error message for each torn one that
    was skipped.
    """
    path, state, torn = _newest(folder)
    if path is not None:
        engine.load(path)
    return state, torn


@on_main_process
def _newest(folder: Path) -> tuple[Path | None, State | None, list[str]]:
    torn: list[str] = []
    for path in reversed(_checkpoints(folder)):
        try:
            return path, check(path), torn
        except CheckpointError as error:
            torn.append(str(error))
    return None, None, torn


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
        state = State.model_validate_json((path / STATE).read_bytes())
        arrays = load_file(path / METHOD_STATE) if METHOD_STATE in hashes else {}
    except (OSError, ValidationError, SafetensorError) as error:
        raise CheckpointError(f"{path} is torn: its state cannot be read ({error})") from None
    method_state = {
        name: float(value) if value.ndim == 0 and value.dtype == np.float64 else value
        for name, value in arrays.items()
    }
    return state.model_copy(update={"method_state": method_state})


def _as_arrays(method_state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Floats as 0-d arrays of float64, so that every bit is kept, NaN and infinity too."""
    arrays = {}
    for name, value in method_state.items():
        if not isinstance(value, float | int | np.floating | np.ndarray):
            raise UsageError(
                f"method_state[{name!r}] is a {type(value).__name__}: use floats and numpy arrays"
            )
        dtype = value.dtype if isinstance(value, np.ndarray) else np.float64
        arrays[name] = np.array(value, dtype, order="C")
    return arrays


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first; unfinished ones have another name."""
    return sorted(p for p in folder.glob("step-*") if re.fullmatch(r"step-\d{6,}", p.name))


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def inputs(parts: RunComponents) -> dict[str, str]:
    """Everything outside config.yaml on which a run's bits depend, one value a name.

    The engine has to be as it was made, before any step or checkpoint.
    """
    config, task = parts.config, parts.task
    found = {
        "model": parts.engine.model_hash(),
        "tokenizer": tokenizer_hash(parts.engine),
        "torch threads": str(torch.get_num_threads()),
    }
    for path, (engine, _) in parts.loaded.items():
        found |= {f"model {path}": engine.model_hash(), f"tokenizer of {path}": tokenizer_hash(engine)}
    packages = ["torch", "transformers", *([] if config.model.lora is None else ["peft"]), *task.packages]
    found |= {f"version of {name}": version(name) for name in packages}
    found["version of didact"] = __version__
    found |= {} if parts.scoring is None else parts.scoring.inputs()
    # Components named as "file.py:Class".
    names = (config.method, config.feedback.source, config.task.name, config.engine.name)
    code = {place for name in names if (place := name.rpartition(":")[0]).endswith(".py")}
    for file in (*task.files, *getattr(parts.source, "files", ()), *sorted(code)):
        found[str(file)] = _sha256(Path(file))
    return found


def write_inputs(run: RunDir, parts: RunComponents) -> None:
    """Write down what a run starts from."""
    write_atomically(run.path / INPUTS, json.dumps(inputs(parts), indent=1, ensure_ascii=False) + "\n")


def check_inputs(run: RunDir, parts: RunComponents) -> None:
    """Compare what is there now with what the run started from.

    Raises:
        CheckpointError: naming every input that differs.
    """
    file = run.path / INPUTS
    if not file.exists() and not run.metrics.exists() and not any(run.checkpoints.glob("*")):
        write_inputs(run, parts)  # killed before it did anything
        return
    try:
        before: dict[str, Any] = dict(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{file} cannot be read ({error}), so nothing proves that the run would go on from the same "
            "inputs: train again with a new --out"
        ) from None
    now = inputs(parts)
    changed = [
        f"{name} ({_short(before.get(name))} → {_short(now.get(name))})"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise CheckpointError(
            f"{run.path} started from other inputs than are there now: {', '.join(changed)}. Put them back "
            "as they were, or train again with a new --out"
        )


def _short(value: object) -> str:
    """A value fit for a message: hashes are cut."""
    text = "nothing" if value is None else str(value)
    return text if len(text) < 64 else text[:12]
