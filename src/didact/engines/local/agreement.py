"""Does a model sample what it scores?

Sampling goes through a cache, left padding and prompts of unlike length; training goes through one forward
pass without a cache. A model whose state is no key-value cache, or whose positions depend on the padding,
draws from one distribution and is trained on another, without an error. So every run begins with a check on a
few tokens, unless this machine has passed a model of the same config before.
"""

from __future__ import annotations

import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from didact.engines.base import SamplingParams, rescored
from didact.engines.local.engine import LocalEngine
from didact.engines.local.loading import config_json
from didact.errors import CapabilityError, NonFiniteError
from didact.types import Ids

HERE = Path(__file__).parent
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.25}
"""Largest difference of a token's log-prob, in nats, by what the engine computes in."""
LENGTHS = (3, 19, 11)
"""Tokens of the prompts, which are sampled in one batch."""
SAMPLED = 8
"""Tokens of each completion; the second turn is as long."""


def disagreement(engine: LocalEngine) -> float:
    """The largest difference between sampled and forward log-probs, in nats, over two turns of each prompt.

    The second turn goes on from the first one's cached prefix. Neither the engine nor the global random state
    changes.

    Raises:
        Exception: the model's own, where it cannot be sampled as the engine does.
    """
    room = engine.max_length or sum((max(LENGTHS), 3 * SAMPLED))
    longest = max(1, min(max(LENGTHS), room - 3 * SAMPLED))
    ids = _ids(engine, longest)
    prompts = [ids[-min(n, longest) :] for n in LENGTHS]
    params = SamplingParams(max_tokens=min(SAMPLED, max(1, room - longest)))
    gaps = []
    with engine.prefix_cache():
        for turn in range(2 if longest + 3 * SAMPLED <= room else 1):
            groups = engine.sample(prompts, 2, params, seed=turn)
            scored = rescored(engine, prompts, groups)
            gaps += [
                np.abs(np.subtract(drawn.logprobs, forward.logprobs)).max()
                for group, again in zip(groups, scored, strict=True)
                for drawn, forward in zip(group, again, strict=True)
            ]
            prompts = [(*p, *group[0].ids, *ids[:SAMPLED]) for p, group in zip(prompts, groups, strict=True)]
    return float(np.max(gaps))


def _ids(engine: LocalEngine, length: int) -> Ids:
    """Ids spread over the vocabulary."""
    vocabulary = engine.capabilities.soft_targets
    return tuple(int(i) for i in np.random.default_rng(0).integers(0, vocabulary, length))


def require_agreement(engine: LocalEngine, cache: Path | None = None) -> None:
    """Check an engine before a run, once for each config of a model on this machine.

    Args:
        cache: Folder with the names of configs that passed; None is didact/agreement in the user's cache.

    Raises:
        CapabilityError: the model cannot be sampled, or does not sample what it scores.
    """
    passed = (cache or _cache_folder()) / _fingerprint(engine)
    if passed.exists():
        return
    kind = engine.model.config.model_type
    cure = "take a model whose attention keeps a key-value cache, as Llama, Qwen, Gemma or Mistral"
    try:
        gap = disagreement(engine)
    except (NonFiniteError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the model's code raises
        raise CapabilityError(
            f"a model of type {kind!r} cannot be sampled here ({type(error).__name__}: {error}): {cure}"
        ) from error
    if not gap <= TOLERANCES[engine.dtype]:
        raise CapabilityError(
            f"a model of type {kind!r} does not sample what it scores: log-probs of sampling and of the "
            f"forward pass differ by {gap:.2g} nats, where {TOLERANCES[engine.dtype]:g} is allowed in "
            f"{engine.dtype}. It would be trained on answers of another distribution: {cure}"
        )
    try:
        passed.parent.mkdir(parents=True, exist_ok=True)
        passed.write_text(f"{kind}: {gap:.2g} nats\n")
    except OSError:
        pass  # the next run checks again


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "didact" / "agreement"


def _fingerprint(engine: LocalEngine) -> str:
    """Of everything but the weights' values that the check depends on."""
    facts = {
        "config": config_json(engine.model),
        "engine": type(engine).__name__,
        "trains all": engine.capabilities.full_finetune,
        "computes in": [engine.dtype, str(engine.device)],
        "attention": getattr(engine.model.config, "_attn_implementation", None),
        "versions": [version(name) for name in ("torch", "transformers")],
        "code": [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(HERE.glob("*.py"))],
    }
    text = json.dumps(facts)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
