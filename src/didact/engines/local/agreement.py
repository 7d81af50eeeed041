"""Does a model sample what it scores?

Sampling goes through a cache, left padding and prompts of unlike length; training goes through one forward
pass without a cache. A model whose state is no key-value cache, or whose positions depend on the padding,
draws from one distribution and is trained on another, without an error. So every run begins with a check on a
few tokens, unless the model has passed it on this machine before.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from didact.distributed import RankDiedError, process_group
from didact.engines.base import SamplingParams, rescored
from didact.engines.local.engine import LocalEngine
from didact.engines.local.loading import config_json
from didact.engines.local.state import is_sharded
from didact.errors import CapabilityError, NonFiniteError
from didact.types import Ids

HERE = Path(__file__).parent
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.1}
"""Limits of `disagreement` in nats, by what the engine computes in."""
LENGTHS = (3, 19, 11)
"""Tokens of the prompts, which are sampled in one batch."""
SAMPLED = 8
"""Tokens of each completion; the second turn is as long."""
KEPT_VALUES = 16
"""Values of each tensor that tell one model's weights from another's."""


def disagreement(engine: LocalEngine) -> float:
    """How far sampled and forward log-probs of tokens differ, in nats, over two turns of each prompt.

    In float32 the largest difference of a token; in bfloat16, where single tokens differ by more than many
    faults do, the mean. The second turn goes on from the first one's cached prefix. Neither the engine nor
    the global random state changes.

    Raises:
        Exception: the model's own, where it cannot be sampled as the engine does.
    """
    room = engine.max_length or sum((max(LENGTHS), 3 * SAMPLED))
    longest = max(1, min(max(LENGTHS), room - 3 * SAMPLED))
    drawn_N = np.random.default_rng(0).integers(0, engine.capabilities.soft_targets, longest)
    ids: Ids = tuple(drawn_N.tolist())
    prompts = [ids[-min(n, longest) :] for n in LENGTHS]
    params = SamplingParams(max_tokens=min(SAMPLED, max(1, room - longest)))
    gaps: list[NDArray[np.float64]] = []
    on_gpu = [engine.device] if engine.device.type == "cuda" else []
    with torch.random.fork_rng(devices=on_gpu), engine.prefix_cache():
        for turn in range(2 if longest + 3 * SAMPLED <= room else 1):
            groups = engine.sample(prompts, 2, params, seed=turn)
            scored = rescored(engine, prompts, groups)
            for drawn, forward in zip(chain(*groups), chain(*scored), strict=True):
                gaps.append(np.abs(np.subtract(drawn.logprobs, forward.logprobs)))
            prompts = [(*p, *group[0].ids, *ids[:SAMPLED]) for p, group in zip(prompts, groups, strict=True)]
    gaps_N = np.concatenate(gaps)
    return float(gaps_N.max() if engine.dtype == "float32" else gaps_N.mean())


def require_agreement(engine: LocalEngine, cache: Path | None = None) -> None:
    """Check an engine before a run, once for each model on this machine; all processes of a launch call it.

    Args:
        cache: Folder with the names of models that passed; None is didact/agreement in the user's cache
            (XDG_CACHE_HOME, else ~/.cache).

    Raises:
        CapabilityError: the model cannot be sampled, or does not sample what it scores.
    """
    folder, name = cache or _cache_folder(), _fingerprint(engine)
    passed = None if folder is None else folder / name
    if process_group().run_on_main(lambda: passed is not None and os.path.exists(passed)):
        return
    kind = engine.model.config.model_type
    cure = "take a model whose attention keeps a key-value cache, as Llama, Qwen, Gemma or Mistral"
    try:
        gap = disagreement(engine)
    except (NonFiniteError, RankDiedError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the model's code raises
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CapabilityError(
            f"a model of type {kind!r} cannot be sampled here ({reason}): {cure}"
        ) from error
    if not gap <= TOLERANCES[engine.dtype]:
        raise CapabilityError(
            f"a model of type {kind!r} does not sample what it scores: log-probs of sampling and of the "
            f"forward pass differ by {gap:.2g} nats, where {TOLERANCES[engine.dtype]:g} is allowed in "
            f"{engine.dtype}. It would be trained on answers of another distribution: {cure}"
        )
    if passed is not None and process_group().is_main:
        with suppress(OSError):  # the next run checks again
            passed.parent.mkdir(parents=True, exist_ok=True)
            passed.write_text(f"{kind}: {gap:.2g} nats\n")


def _cache_folder() -> Path | None:
    """None without a home; a relative path in the environment has no meaning."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (root if root.is_absolute() else Path.home() / ".cache") / "didact" / "agreement"
    except RuntimeError:
        return None


def _fingerprint(engine: LocalEngine) -> str:
    """Of everything that the check depends on; of the weights, a few values of each tensor."""
    facts = {
        "config": config_json(engine.model),
        "engine": type(engine).__name__,
        "trains all": engine.capabilities.full_finetune,
        "computes in": [engine.dtype, str(engine.device)],
        "attention": getattr(engine.model.config, "_attn_implementation", None),
        "versions": [version(name) for name in ("torch", "transformers")],
        "code": [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(HERE.glob("*.py"))],
    }
    digest = hashlib.sha256(json.dumps(facts).encode())
    for name, parameter in engine.model.named_parameters():
        values = (parameter.to_local() if is_sharded(parameter) else parameter).detach().flatten()
        digest.update(name.encode())
        digest.update(values[:: max(1, len(values) // KEPT_VALUES)].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:32]
