"""Known differences between Tinker servers and the engine contract, for `didact doctor --engine tinker`.

The engine's behavior depends on what `server_behavior.measure` finds on connecting, never on this table.
"""

from __future__ import annotations

from typing import NamedTuple

from didact.engines.tinker.server_behavior import NO_CLIP


class KnownDifference(NamedTuple):
    """One difference."""

    server: str
    version: str
    """Of the server, or of the SDK with it."""
    behavior: str
    handling: str


KNOWN_DIFFERENCES = (
    KnownDifference(
        "SkyRL, JAX backend",
        "0.3.0, 0.4.0",
        "divides each row's loss by the sum of its weights (at least 1e-9) and the gradient by the number of "
        "rows since the last step; a negative weight gives 1e9 times the gradient, without an error",
        "measured. A gradient g of the log-probs is sent as importance_sampling with ratio 1 and advantages "
        "−g·T·N under a mask of T ones, N rows in the whole step: exact for either sign. The backward passes "
        "are sent in optim_step, when N is known",
    ),
    KnownDifference(
        "SkyRL, JAX backend",
        "0.3.0, 0.4.0",
        "has no gradient clipping and ignores the setting without an error",
        f"measured; an optim_step with max_grad_norm below {NO_CLIP:g} is refused",
    ),
    KnownDifference(
        "SkyRL, JAX backend",
        "0.3.0, 0.4.0",
        "samples a snapshot by loading it over the adapter in training, or from that adapter itself",
        "measured; snapshots are refused, only the current weights and the base model are sampled",
    ),
    KnownDifference(
        "SkyRL, JAX backend",
        "0.3.0, 0.4.0",
        "has no [T, K] targets, no value head, and no stop strings together with stop ids",
        "soft targets and value heads are refused; stop strings are applied by the client",
    ),
    KnownDifference(
        "SkyRL, JAX backend",
        "0.3.0, 0.4.0",
        "returns no entry for a text's first token, where the protocol has an empty one",
        "either length is read",
    ),
    KnownDifference(
        "SkyRL, JAX backend",
        "0.4.0",
        "an adapter shares one A between the q, k and v projections of a layer, and one between gate and up: "
        "fewer parameters than a peft adapter of the same rank, and different steps from the second on",
        "none: another parameterization, not another gradient. Steps agree with a LocalEngine whose adapter "
        "shares the same tensors (tests/engines_remote)",
    ),
    KnownDifference(
        "SkyRL",
        "0.4.0",
        "may execute a step before a gradient that was sent first: it reads the queue once for gradients and "
        "once for steps, and both can arrive in between; the gradient goes into the next step, without an "
        "error",
        "a step is sent when its gradients are answered, unless engine.settings.pipelined is set",
    ),
    KnownDifference(
        "SkyRL, JAX backend",
        "0.4.0",
        "gives the accumulated gradient of an unloaded adapter to the next one in its slot",
        "a step of size 0 before unloading; measurements ignore the first step of an adapter; load takes "
        "the slot of the adapter that it unloads",
    ),
    KnownDifference(
        "SkyRL",
        "0.4.0",
        "finds an adapter's archive under its bare name, where the protocol has the prefix sampler_weights/; "
        "answers a name used twice with 409, which the SDK retries until its timeout",
        "both addresses are tried; every name is new",
    ),
    KnownDifference(
        "SkyRL",
        "0.3.0",
        "ignores the sequence number of a request, so a retry after a lost reply is executed twice",
        "use 0.4.0, which answers a repeated number with the first result",
    ),
    KnownDifference(
        "SkyRL",
        "0.4.0",
        "loads weights only into an adapter without any earlier request",
        "on every server, load creates a new adapter and unloads the old one",
    ),
    KnownDifference(
        "SkyRL",
        "0.3.0 on Python 3.11",
        "fails to start: pydantic needs typing_extensions.TypedDict there",
        "use Python 3.12",
    ),
    KnownDifference(
        "tinker SDK",
        "all",
        "0.22 speaks JSON, 0.25 and later protobuf: SkyRL 0.3.0 needs 0.22, SkyRL 0.4.0 needs 0.25",
        "pin the SDK to the server; the wrong one is refused on connecting with this advice",
    ),
    KnownDifference(
        "tinker SDK",
        "all",
        "stop is a list of ids or of strings, not both",
        "ids are sent, strings applied by the client",
    ),
)
"""Found by running the servers; the last two by reading the SDK."""


def known_differences(server: str) -> list[KnownDifference]:
    """Those of a server, found by its name, and of the SDK."""
    return [
        known
        for known in KNOWN_DIFFERENCES
        if known.server.split(",")[0].lower() in server.lower() or known.server.startswith("tinker")
    ]
