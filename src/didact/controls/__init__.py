"""Experiment controls: what a method reads in place of the critique, to measure what the critique is worth.

docs/controls.md lists them. A control changes what the method reads and nothing else: the same rollouts are
criticised at the same points. Evaluation always uses the uncontrolled source. `verdict`, `reference` and
`second-try` do not call the source; the others call it as often as the method does (`wrong` and `mixed` a
second time where the first text came out true). Taking more samples at an equal token budget is a setting of
the method, not a control.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator

from didact.controls.adversarial_teacher import Mixed, Wrong
from didact.controls.base import Control, ControlledSource, Verify
from didact.controls.noisy_spans import SPAN_NOISES, SpanNoise
from didact.controls.substitutes import SUBSTITUTES, OtherProblem, Shuffled, Substitute
from didact.errors import did_you_mean
from didact.feedback_source import FeedbackSource
from didact.leakage import LeakGuard

CONTROLS: Mapping[str, type[Control]] = {
    "shuffled": Shuffled,
    "other-problem": OtherProblem,
    **dict.fromkeys(SUBSTITUTES, Substitute),
    "wrong": Wrong,
    "mixed": Mixed,
    **dict.fromkeys(SPAN_NOISES, SpanNoise),
}
"""The settings class of each control by name."""


def check_name(name: str) -> str:
    """The name of a control, if it is one; else a ValueError with the nearest."""
    if name not in CONTROLS:
        raise ValueError(f"unknown control {name!r}: {did_you_mean(name, CONTROLS)}")
    return name


ControlName: TypeAlias = Annotated[str, AfterValidator(check_name)]


def parse_control(value: Any) -> Control | None:
    """A control from its name, or from a mapping of its name and settings.

    >>> parse_control({"name": "mixed", "share": 0.3})
    Mixed(name='mixed', after_right=False, share=0.3)

    Raises:
        ValueError: an unknown name or setting (with the nearest valid one), or a value out of range.
    """
    if value is None or isinstance(value, Control):
        return value
    settings = dict(value) if isinstance(value, Mapping) else {"name": value}
    name = check_name(str(settings.get("name")))
    fields = CONTROLS[name].model_fields
    for key in settings:
        if key not in fields:
            raise ValueError(f"control {name!r} has no setting {key!r}: {did_you_mean(str(key), fields)}")
    return CONTROLS[name].model_validate(settings)


def controlled(
    source: FeedbackSource, control: Any, *, seed: int = 0, verify: Verify | None = None
) -> FeedbackSource:
    """The source under a control, given as for `parse_control`; the source itself under None.

    Args:
        control: A control, its name, or a mapping of its name and settings.
        verify: The task's verifier; it has rejected every false solution of `wrong` and `mixed`.
    """
    parsed = parse_control(control)
    if parsed is None:
        return source
    if parsed.replaces_reference and isinstance(source, LeakGuard):
        # The guard stays outside, so that leaks are measured by the true reference.
        inner = ControlledSource(parsed, source.source, seed, verify)
        return LeakGuard(inner, source.policy, source.meter)
    return ControlledSource(parsed, source, seed, verify)


__all__ = ["CONTROLS", "Control", "ControlName", "controlled", "parse_control"]
