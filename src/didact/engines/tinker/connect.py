"""From an address to an engine that has been probed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from didact.engines.base import ValueHeadSettings
from didact.engines.probe import ProbeResult, probe
from didact.engines.tinker.engine import TinkerEngine
from didact.engines.tinker.gradients import no_value_head
from didact.engines.tinker.protocol import Service
from didact.errors import TrainingGuard, UsageError


@dataclass(frozen=True)
class Address:
    """Where a server is, and what is asked of it.

    Attributes:
        base_url: As "http://10.0.0.5:8000".
        base_model: The model's name there.
        api_key: None for a server that asks for none.
        timeout: Seconds that one request may take, queueing and compiling there included.
        rank: Of the adapter.
        seed: Of the adapter's start.
        probed: Prove the gradients before anything is trained; see `engines/probe.py`.
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
    service: Service | None = None,
) -> TinkerEngine:
    """An engine on the server, with the tokenizer of a model that lies here.

    Args:
        at: The server.
        model: A folder or hub id with the model's tokenizer and config; its weights are not read.
        value_head: Refused.
        service: In place of the SDK's, for tests.

    Raises:
        UsageError: nothing answers, the SDK or the tokenizer is missing, or a value head was requested.
        TrainingGuard: the server's gradients are not those of the contract.
        ServerError: the server failed.
    """
    if value_head is not None:
        raise no_value_head()  # before anything is asked of the server
    words = _Words.of(str(model))
    server = service or _over_the_sdk(at)

    def engine(like: TinkerEngine | None = None) -> TinkerEngine:
        return TinkerEngine(
            server,
            words.tokenizer,
            base_model=at.base_model,
            rank=at.rank,
            seed=at.seed,
            end_ids=words.end_ids,
            max_length=words.max_length,
            vocabulary=words.vocabulary,
            behaviour=None if like is None else like.behaviour,
        )

    made = engine()
    if at.probed:
        thrown_away = engine(made)
        try:
            refuse_failures(server.name, probe(thrown_away))
        except BaseException:
            made.close()
            raise
        finally:
            thrown_away.close()
    return made


def _over_the_sdk(at: Address) -> Service:
    from didact.engines.tinker import wire

    return wire.TinkerService(
        at.base_url, at.base_model, api_key=at.api_key, timeout=at.timeout, pipelined=at.pipelined
    )


def refuse_failures(server: str, results: list[ProbeResult]) -> None:
    """Raise for a server that fails its probe.

    Raises:
        TrainingGuard: naming every check that does not hold, with what was measured.
    """
    failed = [str(r) for r in results if not r.holds]
    if failed:
        raise TrainingGuard(
            f"{server} fails the conformance probe, so nothing trained on it could be trusted: "
            f"{'; '.join(failed)}. `didact doctor --engine tinker` shows the whole table"
        )


@dataclass(frozen=True)
class _Words:
    """What is known here of a model whose weights are elsewhere."""

    tokenizer: Any
    end_ids: tuple[int, ...]
    max_length: int | None
    vocabulary: int

    @classmethod
    def of(cls, model: str) -> _Words:
        """Of a folder or hub id.

        Raises:
            UsageError: it has no tokenizer or config.
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
