"""Connecting to a Tinker server: an engine whose gradients have been probed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from didact.engines.base import ValueHeadSettings
from didact.engines.probe import ProbeResult, probe
from didact.engines.tinker.engine import TinkerEngine
from didact.engines.tinker.gradients import no_value_head
from didact.engines.tinker.protocol import ServiceClient
from didact.errors import TrainingGuard, UsageError


@dataclass(frozen=True)
class Address:
    """A server's address and the adapter to train there.

    Attributes:
        base_url: As "http://10.0.0.5:8000".
        base_model: The model's name on the server.
        api_key: None if the server needs none.
        timeout: Seconds for one request, including queueing and compilation on the server.
        rank: The adapter's rank.
        seed: Of the adapter's initial weights.
        probed: Probe the gradients before training; see `engines/probe.py`.
        pipelined: Send a step before its gradients are answered: for servers that keep the order of requests.
    """

    base_url: str
    base_model: str
    api_key: str | None = None
    timeout: float = 1800.0
    rank: int = 32
    seed: int = 0
    probed: bool = True
    pipelined: bool = False


def connect(
    at: Address,
    model: str | Path,
    *,
    value_head: ValueHeadSettings | None = None,
    service: ServiceClient | None = None,
) -> TinkerEngine:
    """An engine on a server.

    Args:
        at: The server and the adapter.
        model: A folder or hub id with the model's tokenizer and config; its weights are not read.
        value_head: Must be None: servers have no value head.
        service: Replaces the SDK in tests.

    Raises:
        CapabilityError: a value head is needed.
        UsageError: the server does not answer, or the SDK or the tokenizer is missing.
        TrainingGuard: the server's gradients differ from those of the losses.
        TinkerError: the server failed.
    """
    if value_head is not None:
        raise no_value_head()
    files = _ModelFiles.load(str(model))
    if service is None:
        from didact.engines.tinker.wire import TinkerService

        service = TinkerService(
            at.base_url, at.base_model, api_key=at.api_key, timeout=at.timeout, pipelined=at.pipelined
        )
    make = partial(
        TinkerEngine, service, files.tokenizer, base_model=at.base_model, rank=at.rank, seed=at.seed,
        end_ids=files.end_ids, max_length=files.max_length, vocabulary=files.vocabulary,
    )  # fmt: skip
    engine = make()
    if at.probed:
        temporary = make(behavior=engine.behavior)
        try:
            require_passed(service.name, probe(temporary))
        except BaseException:
            engine.close()
            raise
        finally:
            temporary.close()
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


@dataclass(frozen=True)
class _ModelFiles:
    """The tokenizer and context of a model whose weights are on the server."""

    tokenizer: Any
    end_ids: tuple[int, ...]
    max_length: int | None
    vocabulary: int

    @classmethod
    def load(cls, model: str) -> _ModelFiles:
        """From a folder or hub id.

        Raises:
            UsageError: there is no tokenizer or config.
        """
        from transformers import AutoConfig, AutoTokenizer, GenerationConfig

        try:
            tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
            config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(
                f"cannot load the tokenizer of {model!r}: {error}. Give a folder or hub id with the same "
                "model's tokenizer and config; its weights are not needed here"
            ) from error
        try:
            ends = GenerationConfig.from_pretrained(model).eos_token_id
        except OSError:
            ends = None
        text = config.get_text_config(decoder=True)
        listed = ends if isinstance(ends, list) else [ends]
        return cls(
            tokenizer=tokenizer,
            end_ids=tuple(i for i in listed if i is not None),
            max_length=getattr(text, "max_position_embeddings", None),
            vocabulary=int(text.vocab_size),
        )
