"""A request to `/v1/completions` and what its reply must hold: token ids in, token ids and log-probs out.

Nothing of a reply is taken on trust that can be checked here. The fields are those of vLLM 0.33.0
(`vllm/entrypoints/openai/completion/protocol.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from didact.engines.base import Sample, SamplingParams
from didact.engines.vllm.http import RetryableError, ServerError
from didact.errors import TrainingGuard
from didact.types import Ids, StopReason

IMPOSSIBLE = -9999.0
"""vLLM writes −inf as this."""


class StaleWeightsError(TrainingGuard):
    """A sample came from other weights than those that are trained; it was thrown away."""


@dataclass(frozen=True)
class Request:
    """n completions of one prompt.

    Attributes:
        model: What the server calls the weights that are asked for.
        version: The label that every token must carry; None where the model's name alone tells.
    """

    prompt: Ids
    n: int
    params: SamplingParams
    seed: int
    model: str
    version: str | None
    end_ids: Set[int]

    def body(self) -> dict[str, Any]:
        """The request's JSON.

        A server takes what is not said from the model's generation config, so everything is said.
        """
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
            "return_weight_versions": self.version is not None,
        }

    def read(self, reply: Any) -> list[Sample]:
        """The samples of a reply.

        Raises:
            Again: the server broke off.
            ServerError: the reply does not hold what was asked for.
            StaleWeightsError: it comes from other weights.
        """
        if not isinstance(reply, Mapping) or not isinstance(reply.get("choices"), list):
            raise RetryableError(f"the reply is no completion: {str(reply)[:200]!r}")
        if reply.get("model") != self.model:
            raise StaleWeightsError(
                f"the server answered as {reply.get('model')!r}, where {self.model!r} was asked: the sample "
                "is not of the weights that are trained, and was thrown away"
            )
        choices = reply["choices"]
        if sorted(_index(choice) for choice in choices) != list(range(self.n)):
            raise ServerError(f"the server sent {len(choices)} completions, where {self.n} were asked")
        return [self._sample(choice) for choice in sorted(choices, key=_index)]

    def _sample(self, choice: Mapping[str, Any]) -> Sample:
        finish = choice.get("finish_reason")
        if finish in ("abort", "error"):
            raise RetryableError(f"the server broke off with {finish!r}")
        ids = _ids(choice.get("token_ids"))
        if ids is None or _ids(choice.get("prompt_token_ids")) is None:
            raise ServerError(
                "the server's reply has no token ids: it does not know return_token_ids (vLLM does)"
            )
        if _ids(choice["prompt_token_ids"]) != tuple(self.prompt):
            raise ServerError("the server read other prompt ids than it was sent")
        if not 1 <= len(ids) <= self.params.max_tokens:
            raise ServerError(f"the server sent {len(ids)} tokens, max_tokens is {self.params.max_tokens}")
        logprobs = self._logprobs(choice.get("logprobs"), len(ids))
        if self.version is not None:
            self._check_version(choice.get("weight_versions"), len(ids))
        return Sample(ids, logprobs, self._stop_reason(finish, choice.get("stop_reason"), ids))

    def _logprobs(self, given: Any, length: int) -> tuple[float, ...]:
        listed = given.get("token_logprobs") if isinstance(given, Mapping) else None
        if not isinstance(listed, list) or len(listed) != length:
            found = f"{len(listed)}" if isinstance(listed, list) else "no"
            raise ServerError(f"the server sent {found} log-probs for {length} tokens")
        if not all(
            isinstance(x, int | float) and math.isfinite(x) and IMPOSSIBLE < x <= 1e-3 for x in listed
        ):
            odd = next(x for x in listed if not isinstance(x, int | float) or not IMPOSSIBLE < x <= 1e-3)
            raise ServerError(
                f"the server gives a sampled token the log-prob {odd!r}: its weights are broken, or it was "
                "started with another --logprobs-mode than raw_logprobs"
            )
        return tuple(map(float, listed))

    def _check_version(self, spans: Any, length: int) -> None:
        if spans is None:
            raise ServerError(
                "the server does not say which weights a token came from: it does not know "
                "return_weight_versions (vLLM 0.33 does)"
            )
        expected = [{"version": self.version, "start": 0, "end": length}]
        if spans != expected:
            raise StaleWeightsError(
                f"the server sampled with weights {str(spans)[:200]}, where all {length} tokens must be of "
                f"{self.version!r}: the sample was thrown away. Was the server restarted, or does another "
                "run use it? Start a server for this run alone and resume"
            )

    def _stop_reason(self, finish: Any, matched: Any, ids: Ids) -> StopReason:
        if self.end_ids & set(ids[:-1]):
            raise ServerError(f"the server went on after the end of a completion: {ids[:-1]}")
        if finish == "length" and len(ids) == self.params.max_tokens:
            return "length"
        if finish == "stop" and isinstance(matched, str) and matched in self.params.stop:
            return "stop"
        if finish == "stop" and not isinstance(matched, str) and ids[-1] in self.end_ids:
            return "eos"
        raise ServerError(
            f"the server ended a completion of {len(ids)} tokens at id {ids[-1]} with {finish!r} "
            f"({matched!r}), which is no reason here: max_tokens is {self.params.max_tokens}, the end ids "
            f"are {sorted(self.end_ids)}, the stop strings {list(self.params.stop)}. Is it the same model, "
            "served with --generation-config vllm?"
        )


def _index(choice: Any) -> int:
    index = choice.get("index") if isinstance(choice, Mapping) else None
    return index if isinstance(index, int) else -1


def _ids(given: Any) -> Ids | None:
    if not isinstance(given, list) or not all(type(i) is int and i >= 0 for i in given):
        return None
    return tuple(given)


def check_gap(server: Sequence[Sequence[float]], trainer: Sequence[Sequence[float]], limit: float) -> float:
    """The mean |difference| a token, in nats, of the server's log-probs from the trainer's.

    Raises:
        StaleWeightsError: it is above the limit, or no number.
    """
    pairs = [(s, t) for a, b in zip(server, trainer, strict=True) for s, t in zip(a, b, strict=True)]
    gap = sum(abs(s - t) for s, t in pairs) / max(1, len(pairs))
    if not gap <= limit:
        raise StaleWeightsError(
            f"the server's log-probs are {gap:.3g} nats a token from the trainer's, above {limit:g}: it "
            "serves another model, other weights or other arithmetic, or was started with another "
            "--logprobs-mode than raw_logprobs. Take logprobs='trainer' if the weights are right and its "
            "log-probs cannot be trusted"
        )
    return gap
