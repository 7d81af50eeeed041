"""Requests to a vLLM server: adapters, and completions with token ids in and out, whose replies are checked.

Each version of an adapter is written to a shared directory and loaded under a new name. The server must see
the directory under the same path, be started with `--enable-lora` and a `--max-lora-rank` of at least the
adapter's rank, and with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1.

Fields: `vllm/entrypoints/openai/completion/protocol.py` of vLLM 0.32 and 0.33.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from didact.engines.base import Sample, SamplingParams
from didact.errors import TrainingGuard, UsageError
from didact.llm.api_keys import check_url, optional_key
from didact.llm.http import ClientError, HttpServer, RetryableError, RetryPolicy, ServerError, parse_json
from didact.types import Ids, StopReason

LOG = logging.getLogger("didact")
IMPOSSIBLE = -9999.0
"""vLLM's encoding of −∞."""


class StaleWeightsError(TrainingGuard):
    """A sample did not come from the current weights and was discarded."""


def vllm_server(
    base_url: str | None = None,
    *,
    api_key_env: str | None = None,
    timeout: float = 600.0,
    retries: RetryPolicy | None = None,
) -> HttpServer:
    """A vLLM server.

    Args:
        base_url: None for "http://127.0.0.1:8000"; a trailing "/v1" is removed.
        api_key_env: Environment variable of the server's `--api-key`; None for VLLM_API_KEY. The key is sent
            if the variable is set, over https or to this machine only.
        timeout: Seconds for one attempt of a request, > 0.
        retries: The retry policy; None for 4 retries.

    Raises:
        UsageError: the URL is malformed or may hold a secret, or a value is out of range.
    """
    url = ("http://127.0.0.1:8000" if base_url is None else base_url).strip().rstrip("/").removesuffix("/v1")
    check_url(url)
    variable = api_key_env or "VLLM_API_KEY"
    return HttpServer(
        url,
        key=optional_key(url, variable),
        key_variable=variable,
        timeout=timeout,
        retries=retries or RetryPolicy(max_retries=4),
    )


def served_models(server: HttpServer) -> dict[str, Any]:
    """The entries of `/v1/models` by name.

    Raises:
        ServerError: the server cannot be reached.
    """

    def parse(text: str) -> dict[str, Any]:
        listed = parse_json(text)
        data = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(data, list):
            raise RetryableError(f"/v1/models has no list of models: {text[:200]!r}")
        return {str(m["id"]): m for m in data if isinstance(m, dict) and "id" in m}

    return server.run(lambda session: session.request("GET", "/v1/models", parse=parse))


def load_adapter(server: HttpServer, adapter: Path) -> None:
    """Load an adapter from its directory, under the directory's name. Safe to repeat: a name never changes
    its files.

    Raises:
        UsageError: the server does not load adapters.
        ServerError: the server failed; nothing may be sampled until a later call succeeds.
    """
    cure = (
        "Start the server with --enable-lora, a --max-lora-rank of the adapter's rank and "
        f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, and let it see {adapter.parent}"
    )
    try:
        _post(server, "/v1/load_lora_adapter", {"lora_name": adapter.name, "lora_path": str(adapter)})
    except ServerError as error:  # vLLM answers 500 to an adapter that it cannot load
        raise ServerError(f"{error}. {cure}") from error
    except ClientError as error:
        # If the first reply was lost, the second one is "already loaded".
        if error.status != 400 or adapter.name not in served_models(server):
            raise UsageError(f"{error}. {cure}") from error


def unload_adapter(server: HttpServer, adapter: Path) -> None:
    """Unload an adapter and delete its directory."""
    try:
        _post(server, "/v1/unload_lora_adapter", {"lora_name": adapter.name})
    except (ClientError, ServerError) as error:
        LOG.warning("the server keeps the unused adapter %s: %s", adapter.name, error)
    shutil.rmtree(adapter, ignore_errors=True)


def _post(server: HttpServer, path: str, body: dict[str, str]) -> None:
    server.run(lambda session: session.request("POST", path, body, parse=str))


@dataclass(frozen=True)
class CompletionRequest:
    """n completions of one prompt."""

    prompt: Ids
    n: int
    params: SamplingParams
    seed: int
    """vLLM gives completion j the seed `seed` + j."""
    model: str
    """The served name of the adapter."""
    end_ids: Set[int]

    def body(self) -> dict[str, Any]:
        """The request's JSON, with every parameter: vLLM takes omitted ones from the generation config."""
        p = self.params
        return {
            "model": self.model,
            "prompt": list(self.prompt),
            "n": self.n,
            "seed": self.seed,
            "max_tokens": p.max_tokens,
            "temperature": p.temperature,
            "top_p": p.top_p,
            "top_k": p.top_k,
            "min_p": 0.0,
            "min_tokens": min(p.min_tokens, p.max_tokens),
            "repetition_penalty": p.repetition_penalty,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop": list(p.stop),
            "stop_token_ids": sorted(self.end_ids),
            "include_stop_str_in_output": True,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "logprobs": 0,
            "return_token_ids": True,
        }

    def parse(self, text: str) -> list[Sample]:
        """The samples in a reply.

        Raises:
            RetryableError: the server broke off, or the reply is no completion.
            ServerError: the reply does not match the request.
            StaleWeightsError: the reply comes from other weights.
        """
        reply = parse_json(text)
        if not isinstance(reply, Mapping) or not isinstance(reply.get("choices"), list):
            raise RetryableError(f"the reply is no completion: {text[:200]!r}")
        if reply.get("model") != self.model:
            raise StaleWeightsError(
                f"the server answered with model {reply.get('model')!r} to a request for {self.model!r}; "
                "the samples were discarded"
            )
        choices = reply["choices"]
        if sorted(_index(choice) for choice in choices) != list(range(self.n)):
            raise ServerError(f"the server sent {len(choices)} completions, not {self.n}")
        return [self._sample(choice) for choice in sorted(choices, key=_index)]

    def _sample(self, choice: Mapping[str, Any]) -> Sample:
        finish = choice.get("finish_reason")
        if finish in ("abort", "error"):
            raise RetryableError(f"the server broke off with finish_reason {finish!r}")
        ids, prompt = _ids(choice.get("token_ids")), _ids(choice.get("prompt_token_ids"))
        if ids is None or prompt is None:
            raise ServerError("the reply has no token_ids: the server does not support return_token_ids")
        if prompt != tuple(self.prompt):
            raise ServerError("the reply's prompt_token_ids are not those of the request")
        least, most = self.params.min_tokens + 1 if finish == "stop" else 1, self.params.max_tokens
        if not least <= len(ids) <= most:
            asked = f"min_tokens {self.params.min_tokens} and max_tokens {most}"
            raise ServerError(f"the server sent {len(ids)} tokens, with {asked}")
        logprobs = self._logprobs(choice.get("logprobs"), len(ids))
        return Sample(ids, logprobs, self._stop_reason(finish, choice.get("stop_reason"), ids))

    def _logprobs(self, given: Any, length: int) -> tuple[float, ...]:
        listed = given.get("token_logprobs") if isinstance(given, Mapping) else None
        if not isinstance(listed, list) or len(listed) != length:
            found = f"{len(listed)}" if isinstance(listed, list) else "no"
            raise ServerError(f"the server sent {found} log-probs for {length} tokens")
        for x in listed:
            if not (isinstance(x, int | float) and math.isfinite(x) and IMPOSSIBLE < x <= 1e-3):
                raise ServerError(
                    f"the server gives a sampled token the log-prob {x!r}: its weights are broken, or it "
                    "runs with another --logprobs-mode than raw_logprobs"
                )
        return tuple(map(float, listed))

    def _stop_reason(self, finish: Any, matched: Any, ids: Ids) -> StopReason:
        if self.end_ids & set(ids[:-1]):
            raise ServerError(f"the server sampled beyond an end id: {ids[:-1]}")
        if finish == "length" and len(ids) == self.params.max_tokens:
            return "length"
        if finish == "stop" and isinstance(matched, str) and matched in self.params.stop:
            return "stop"
        if finish == "stop" and not isinstance(matched, str) and ids[-1] in self.end_ids:
            return "eos"
        raise ServerError(
            f"the server ended a completion of {len(ids)} tokens at id {ids[-1]} with finish_reason "
            f"{finish!r} (stop_reason {matched!r}), which matches neither max_tokens "
            f"{self.params.max_tokens}, the end ids {sorted(self.end_ids)} nor the stop strings "
            f"{list(self.params.stop)}. Is it the same model, served with --generation-config vllm?"
        )


def _index(choice: Any) -> int:
    index = choice.get("index") if isinstance(choice, Mapping) else None
    return index if isinstance(index, int) else -1


def _ids(given: Any) -> Ids | None:
    if not isinstance(given, list) or not all(type(i) is int and i >= 0 for i in given):
        return None
    return tuple(given)


def check_gap(served: Sequence[Sequence[Sample]], scored: Sequence[Sequence[Sample]], limit: float) -> None:
    """Compare the samples of each prompt with the same samples as the trainer scores them.

    Raises:
        StaleWeightsError: the mean |difference| of their log-probs, in nats per token, exceeds the limit or
            is not finite.
    """
    server_side, trainer_side = (
        [logprob for own in groups for sample in own for logprob in sample.logprobs]
        for groups in (served, scored)
    )
    gaps = [abs(s - t) for s, t in zip(server_side, trainer_side, strict=True)]
    gap = sum(gaps) / max(1, len(gaps))
    if not gap <= limit:
        raise StaleWeightsError(
            f"the server's log-probs differ from the trainer's by {gap:.3g} nats a token, above {limit:g}: "
            "it serves another model or other weights, computes in another precision, or runs with another "
            "--logprobs-mode than raw_logprobs. If only its log-probs are wrong, take logprobs='trainer'"
        )
