"""Requests to `/v1/completions` of vLLM, token ids in and out, and the checks of their replies.

Fields: `vllm/entrypoints/openai/completion/protocol.py` of vLLM 0.32 and 0.33.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from didact.engines.base import Sample, SamplingParams
from didact.errors import TrainingGuard
from didact.llm.http import RetryableError, ServerError, parse_json
from didact.types import Ids, StopReason

IMPOSSIBLE = -9999.0
"""vLLM's encoding of −∞."""


class StaleWeightsError(TrainingGuard):
    """A sample did not come from the current weights and was discarded."""


@dataclass(frozen=True)
class CompletionRequest:
    """n completions of one prompt.

    Attributes:
        prompt: Token ids.
        n: Completions.
        params: Sampling parameters.
        seed: vLLM gives completion j the seed `seed` + j.
        model: The served name of the weights: that of the adapter.
        end_ids: Ids that end a completion.
    """

    prompt: Ids
    n: int
    params: SamplingParams
    seed: int
    model: str
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
            "min_tokens": 0,
            "repetition_penalty": 1.0,
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
        if not 1 <= len(ids) <= self.params.max_tokens:
            raise ServerError(f"the server sent {len(ids)} tokens, with max_tokens {self.params.max_tokens}")
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


def check_gap(server: Sequence[Sequence[float]], trainer: Sequence[Sequence[float]], limit: float) -> float:
    """The mean |difference| per token, in nats, between the log-probs of server and trainer.

    Raises:
        StaleWeightsError: it exceeds the limit or is not finite.
    """
    pairs = [(s, t) for a, b in zip(server, trainer, strict=True) for s, t in zip(a, b, strict=True)]
    gap = sum(abs(s - t) for s, t in pairs) / max(1, len(pairs))
    if not gap <= limit:
        raise StaleWeightsError(
            f"the server's log-probs differ from the trainer's by {gap:.3g} nats a token, above {limit:g}: "
            "it serves another model or other weights, computes in another precision, or runs with another "
            "--logprobs-mode than raw_logprobs. If only its log-probs are wrong, take logprobs='trainer'"
        )
    return gap
