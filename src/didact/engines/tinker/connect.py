"""Connecting to a Tinker server: an engine whose gradients have been probed."""

from __future__ import annotations

from contextlib import closing
from functools import partial

from didact.engines.local.sampling import end_ids_of
from didact.engines.probe import ProbeResult, probe
from didact.engines.tinker.engine import ModelFiles, TinkerEngine
from didact.engines.tinker.wire import TinkerService
from didact.errors import TrainingGuard, UsageError


def connect(
    service: TinkerService, model: str, *, rank: int = 32, seed: int = 0, probed: bool = True
) -> TinkerEngine:
    """An engine on a server.

    Args:
        model: A folder or hub id with the model's tokenizer and config; its weights are not read.
        rank, seed: Of the adapter.
        probed: Probe the gradients before training; see `engines/probe.py`.

    Raises:
        UsageError: the tokenizer is missing.
        TrainingGuard: the server's gradients differ from those of the losses.
        TinkerError: the server failed.
    """
    make = partial(TinkerEngine, service, _model_files(model), rank=rank, seed=seed)
    engine = make()
    if probed:
        try:
            with closing(make(behavior=engine.behavior)) as temporary:
                require_passed(service.name, probe(temporary))
        except BaseException:
            engine.close()
            raise
    return engine


def require_passed(server: str, results: list[ProbeResult]) -> None:
    """Refuse a server that fails its probe.

    Raises:
        TrainingGuard: with every failed check and its measurement.
    """
    failed = [str(r) for r in results if not r.holds]
    if failed:
        raise TrainingGuard(
            f"{server} fails the conformance probe, so nothing trained on it could be trusted: "
            f"{'; '.join(failed)}. `didact doctor --engine tinker` shows the whole table"
        )


def _model_files(model: str) -> ModelFiles:
    """Those of a folder or hub id."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    except Exception as error:  # broken files raise what their readers happen to
        raise UsageError(
            f"cannot load the tokenizer of {model!r}: {error}. Give a folder or hub id with the same "
            "model's tokenizer and config; its weights are not needed here"
        ) from error
    try:
        generation = GenerationConfig.from_pretrained(model)
    except OSError:
        generation = None
    text = config.get_text_config(decoder=True)
    length = getattr(text, "max_position_embeddings", None)
    return ModelFiles(tokenizer, end_ids_of(tokenizer, generation), length, int(text.vocab_size))
