"""What servers do otherwise than the contract, and what is done about it: one table, and what is measured.

The table is for people: `didact doctor --engine tinker` prints the lines of the server it meets. What the
engine *does* hangs on no name and no version but on `Behaviour`, which `measure.py` measures on connect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Reduction = Literal["sum", "mean of row means"]
"""How a server adds up a loss: Σ over rows and tokens, or each row divided by the sum of its weights and all
by the number of rows since the last step."""

NO_CLIP = 1e6
"""A `max_grad_norm` from here on asks for no clipping."""


@dataclass(frozen=True)
class Behaviour:
    """What was measured of a server on throw-away adapters.

    Attributes:
        reduction: How losses are added up.
        clips: `max_grad_norm` is obeyed.
        snapshots: Weights that were kept for sampling stay what they were when the adapter trains on.
        raw_logprobs: Sampled log-probs are those of the model itself, before temperature.
        soft_targets: K of [T, K] targets that cross-entropy takes, as far as it was tried.
    """

    reduction: Reduction = "sum"
    clips: bool = True
    snapshots: bool = True
    raw_logprobs: bool = True
    soft_targets: int = 0

    def lines(self) -> list[str]:
        """What was found, a line each, for `didact doctor`."""
        exact = (
            "gradients go as weights"
            if self.reduction == "sum"
            else "rescaled exactly: gradients go as advantages of importance_sampling under a mask of ones"
        )
        clip = "obeyed" if self.clips else f"ignored: set optim.max_grad_norm to {NO_CLIP:g}"
        return [
            f"reduction            {self.reduction}: {exact}",
            f"gradient clipping    {clip}",
            f"snapshots            {'keep' if self.snapshots else 'change with the adapter: refused'}",
            f"sampled log-probs    {'as they are' if self.raw_logprobs else 'tempered: scored again'}",
            f"soft targets         {self.soft_targets or 'none'}",
        ]


class Quirk(NamedTuple):
    """One known difference."""

    server: str
    version: str
    """Of the server, or of the SDK with it."""
    what: str
    done: str


QUIRKS = (
    Quirk(
        "SkyRL, JAX backend",
        "0.3.0, 0.4.0",
        "divides each row's loss by the sum of its weights (at least 1e-9) and the gradient by the number of "
        "rows since the last step; a negative weight gives 1e9 times the gradient, without an error",
        "measured. A gradient g of the log-probs is sent as importance_sampling with ratio 1 and advantages "
        "−g·T·N under a mask of T ones, N rows in the whole step: exact for either sign. The backward passes "
        "wait until optim_step, when N is known",
    ),
    Quirk(
        "SkyRL, JAX backend",
        "0.3.0, 0.4.0",
        "has no gradient clipping; the setting is dropped without an error",
        f"measured; an optim_step with max_grad_norm below {NO_CLIP:g} is refused",
    ),
    Quirk(
        "SkyRL, JAX backend",
        "0.3.0, 0.4.0",
        "samples a kept snapshot by loading it over the adapter in training, or from that adapter itself",
        "measured; snapshots are refused, and only the current weights and the base model are sampled",
    ),
    Quirk(
        "SkyRL, JAX backend",
        "0.3.0, 0.4.0",
        "takes no [T, K] targets, no value head, no stop strings beside stop ids",
        "soft targets and value heads are refused; stop strings are found on this side, as LocalEngine does",
    ),
    Quirk(
        "SkyRL, JAX backend",
        "0.3.0, 0.4.0",
        "gives no entry for a text's first token, where the protocol has an empty one",
        "either length is read",
    ),
    Quirk(
        "SkyRL, JAX backend",
        "0.4.0",
        "an adapter has one A for the q, k and v projections of a layer, and one for gate and up: fewer "
        "parameters than a peft adapter of the same rank, and other steps from the second on",
        "nothing: it is another adapter, not another gradient. Against a LocalEngine whose adapter shares "
        "the same tensors, the steps agree (tests/engines_remote)",
    ),
    Quirk(
        "SkyRL",
        "0.4.0",
        "may take a step before a gradient that was sent first: it reads the queue twice, for gradients and"
        " then for steps, and both can arrive between; the gradient goes into the next step, without an "
        "error",
        "a step is sent when its gradients are answered, unless engine.settings.pipelined: the server keeps"
        " order",
    ),
    Quirk(
        "SkyRL, JAX backend",
        "0.4.0",
        "gives the gradient that an adapter leaves behind to the next one in its place",
        "a step of size 0 before an adapter is let go; a measurement never takes the first step of an "
        "adapter at its word; load takes the place of the adapter that it lets go",
    ),
    Quirk(
        "SkyRL",
        "0.4.0",
        "finds the archive of an adapter under its name alone, where the protocol has sampler_weights/ "
        "before it; keeps one thing by a name and answers a second one with 409, at which the SDK tries on "
        "for its whole time limit",
        "both addresses are asked; every name is new",
    ),
    Quirk(
        "SkyRL",
        "0.3.0",
        "ignores the sequence number of a request, so a retry after a lost reply is done twice",
        "take 0.4.0, which answers a repeated number with the first request's result",
    ),
    Quirk(
        "SkyRL",
        "0.4.0",
        "loads weights only into an adapter without any earlier request",
        "load makes a new adapter and lets the server forget the old one, on every server",
    ),
    Quirk(
        "SkyRL",
        "0.3.0 on Python 3.11",
        "fails to start: pydantic wants typing_extensions.TypedDict there",
        "take Python 3.12",
    ),
    Quirk(
        "tinker SDK",
        "all",
        "0.22 speaks JSON, 0.25 and later protobuf: SkyRL 0.3.0 takes 0.22, SkyRL 0.4.0 takes 0.25 alone",
        "pin the SDK by the server; connecting with the wrong one is refused with this advice",
    ),
    Quirk(
        "tinker SDK",
        "all",
        "stop is a list of ids or of strings, not both",
        "ids are sent, strings found on this side",
    ),
)
"""What was met, by running it or (the last two) by reading it."""


def known(server: str) -> list[Quirk]:
    """The quirks of a server by its name, the SDK's included."""
    return [
        q for q in QUIRKS if q.server.split(",")[0].lower() in server.lower() or q.server.startswith("tinker")
    ]
