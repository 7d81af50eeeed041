"""A policy with a table for weights: what comes next depends on the last id alone. Ids are characters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from didact import losses
from didact.engines.base import POLICY, Capabilities
from didact.methods import LossTerm
from didact.types import Feedback, Problem, Rollout, Row, Span, StopReason, Turn
from tests.helpers import CRITIC, WordTokenizer

SIZE = 128


class Bigram:
    """An engine whose log-probs, values and distances are exact and differentiable.

    Attributes:
        theta: Logits [last id, next id] in float64.
        start: The reference's.
        value: V by last id.
    """

    max_length = None

    def __init__(
        self, seed: int = 0, *, moved: float = 0.0, capabilities: Capabilities | None = None
    ) -> None:
        draw = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draw, dtype=torch.float64)

        self.start = normal(SIZE, SIZE)
        self.theta = (self.start + moved * normal(SIZE, SIZE)).requires_grad_(True)
        self.value = normal(SIZE).requires_grad_(True)
        self.tokenizer = WordTokenizer()
        self.capabilities = capabilities or Capabilities(value_head=True, full_kl=True)

    def row_logprobs(self, row: Row, logits: Tensor | None = None) -> Tensor:
        table = self.theta if logits is None else logits
        return table[row.input_ids].log_softmax(-1)[np.arange(len(row)), row.target_ids]

    def logprobs(self, rows, *, weights=POLICY):  # type: ignore[no-untyped-def]
        logits = self.theta if weights == POLICY else self.start
        return [self.row_logprobs(row, logits).detach().numpy() for row in rows]

    def values(self, rows):  # type: ignore[no-untyped-def]
        return [self.value.detach()[row.input_ids].numpy() * (row.fields["weights"] != 0) for row in rows]

    def full_kl(self, rows):  # type: ignore[no-untyped-def]
        return [self.kl(row).detach().numpy() * (row.fields["weights"] != 0) for row in rows]

    def kl(self, row: Row) -> Tensor:
        own, other = (t[row.input_ids].log_softmax(-1) for t in (self.theta, self.start))
        return (own.exp() * (own - other)).sum(-1)

    def loss(self, terms: Sequence[LossTerm]) -> Tensor:
        """The summed losses of some terms."""
        total = torch.zeros((), dtype=torch.float64)
        for term in terms:
            for row in term.rows:
                fields = {
                    f"{k}_BT": torch.tensor(np.asarray(v, np.float64))[None] for k, v in row.fields.items()
                }
                if term.loss.name == "actor_critic":
                    fields["values_BT"] = self.value[row.input_ids][None]
                found = losses.BUILTIN[term.loss.name](
                    self.row_logprobs(row)[None], **fields, **term.loss.settings
                )
                total = total + found.loss
        return total

    def gradient(self, terms: Sequence[LossTerm]) -> np.ndarray:
        """What a step climbs: −∇ loss with respect to theta."""
        total = self.loss(terms)
        return (
            -torch.autograd.grad(total, self.theta)[0].numpy()
            if total.requires_grad
            else np.zeros((SIZE, SIZE))
        )

    def score(self, text: str, deltas: Sequence[float], ended: bool) -> np.ndarray:
        """Σ_t δ_t ∇ log π(y_t) of an answer, by autograd."""
        ids = [1, *map(ord, text), *([0] if ended else [])]
        logprobs_T = self.theta[ids[:-1]].log_softmax(-1)[np.arange(len(ids) - 1), ids[1:]]
        total = (torch.tensor(deltas, dtype=torch.float64) * logprobs_T).sum()
        return torch.autograd.grad(total, self.theta)[0].numpy()

    def answer(
        self,
        text: str,
        good: Sequence[str] = (),
        poor: Sequence[str] = (),
        *,
        group: str = "g",
        name: str = "0",
        ended: bool = True,
        reward: float | None = None,
        **feedback: object,
    ) -> Rollout:
        """A rollout with one answer, and a critique that quotes it (each quote at its first place)."""
        ids = (*map(ord, text), *([0] if ended else []))
        row = Row.from_completion((1,), ids)
        stop: StopReason = "eos" if ended else "length"
        turn = Turn(
            prompt_ids=(1,), completion_ids=ids, logprobs=tuple(self.row_logprobs(row).tolist()), text=text,
            stop_reason=stop, reward=reward,
        )  # fmt: skip
        quotes = [(q, "good") for q in good] + [(q, "poor") for q in poor]
        problem = Problem.ask("q", id=group, reference="a")
        said = critique(text, quotes, **feedback)
        return Rollout(id=f"{group}/{name}", group=group, problem=problem, turns=(turn,), feedback=(said,))


def critique(text: str, quotes: Sequence[tuple[str, str]], **changes: object) -> Feedback:
    """A critique of a text with some of its phrases."""
    spans = tuple(
        Span(start=text.index(quote), end=text.index(quote) + len(quote), quote=quote, label=label)  # type: ignore[arg-type]
        for quote, label in quotes
    )
    values = {"text": "said", "source": "judge", "spans": spans, "saw_reference": False, "provenance": CRITIC}
    return Feedback.model_validate({**values, **changes})


def failed(**changes: object) -> dict[str, object]:
    """What makes a critique a failed one."""
    return {"status": "failed", "error": "down", **changes}
