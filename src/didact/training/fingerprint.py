"""What a run was made from: hashes and versions that must be the same when it goes on."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from didact._version import __version__
from didact.build.components import RunComponents
from didact.config import RunConfig
from didact.errors import CheckpointError
from didact.run_dir import RunDir, write_atomically

INPUTS = "inputs.json"
"""The file's name in a run directory."""


def inputs(parts: RunComponents) -> dict[str, str]:
    """Everything outside config.yaml on which a run's bits depend, one value a name.

    Args:
        parts: With the engine as it was made, before any step or checkpoint.
    """
    task, tokenizer = parts.task, parts.engine.tokenizer
    words = json.dumps([sorted(tokenizer.get_vocab().items()), tokenizer.chat_template])
    found = {
        "model": parts.engine.model_hash(),
        "tokenizer": hashlib.sha256(words.encode()).hexdigest(),
        "torch threads": str(torch.get_num_threads()),
    }
    packages = ["torch", "transformers"]
    if parts.config.model.lora is not None:
        packages.append("peft")
    packages += task.packages
    found |= {f"version of {name}": version(name) for name in packages}
    found["version of didact"] = __version__
    found |= {} if parts.scoring is None else parts.scoring.inputs()
    for file in (*task.files, *getattr(parts.source, "files", ()), *_code_files(parts.config)):
        found[str(file)] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return found


def _code_files(config: RunConfig) -> list[str]:
    """The files of components named as "file.py:Class"."""
    names = (config.method, config.feedback.source, config.task.name, config.engine.name)
    places = [name.rpartition(":")[0] for name in names]
    return sorted({place for place in places if place.endswith(".py")})


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
