"""UltraFeedback (openbmb/UltraFeedback; Cui et al. 2023, arXiv:2310.01377): critiques by GPT-4.

Shape as the set's own scripts and its users read it (2023–2026): a row has `source`, `instruction` and
`completions`, each with `response`, `model`, `critique`, `overall_score`, `fine-grained_score`, and
`annotations`: helpfulness, honesty, truthfulness and instruction_following with `Rating` ("1"–"5" or
"N/A"), `Rationale` and, where types are given, `Rationale For Rating`. The nesting is only
confirmed in part, so every key but `instruction` and `response` may be missing.

Pin a revision: scores were corrected after the release (an `overall_score` of 10 that its critique
contradicts should be 1). A rating of "N/A" or NaN is no score; it is never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from didact.data.faults import RawRow, Rejected, RowError, expected, row_error
from didact.data.importers.base import (
    Outcome,
    by_row,
    make_example,
    make_feedback,
    maybe_text,
    row_id,
    score_and_label,
)
from didact.types import Example, Feedback, Message

JUDGE = "gpt-4"


def import_ultrafeedback(rows: Iterable[RawRow | Rejected], mapping: Mapping[str, str]) -> Iterator[Outcome]:
    """One example a completion, with its critique and its ratings."""
    return by_row(rows, _examples)


def _examples(row: RawRow) -> Iterator[Example | RowError]:
    value = row.value
    instruction = maybe_text(value.get("instruction"), "instruction")
    if instruction is None or not instruction.strip():
        raise row_error("instruction", "is missing or empty; complete the row")
    completions = value.get("completions")
    if not isinstance(completions, list) or not completions:
        raise RowError(expected("completions", "a list of completions", completions, "complete the row"))
    identity = row_id(row)
    for i, completion in enumerate(completions):
        where = f"completions[{i}]"
        try:
            if not isinstance(completion, dict):
                raise RowError(expected(where, "an object", completion, "complete the row"))
            system = maybe_text(completion.get("custom_system_prompt"), f"{where}.custom_system_prompt")
            asked = [Message(role="system", content=system)] if system else []
            messages = (*asked, Message(role="user", content=instruction))
            metadata = {key: completion.get(key) for key in ("model", "principle")}
            yield make_example(
                f"{identity}/{i + 1}",
                messages,
                maybe_text(completion.get("response"), f"{where}.response") or "",
                _feedback(completion, where),
                metadata={**metadata, "source": value.get("source")},
            )
        except RowError as error:
            yield error


def _feedback(completion: dict[str, Any], where: str) -> Iterator[Feedback]:
    text = maybe_text(completion.get("critique"), f"{where}.critique")
    score = _rating(completion.get("overall_score"), f"{where}.overall_score")
    yield from _judged(text, score, None)
    annotations = completion.get("annotations")
    if annotations is None:
        return
    if not isinstance(annotations, dict):
        raise RowError(expected(f"{where}.annotations", "an object", annotations, "complete the row"))
    for aspect, rated in annotations.items():
        for item in rated if isinstance(rated, list) else [rated]:
            if not isinstance(item, dict):
                continue
            column = f"{where}.annotations.{aspect}"
            why = maybe_text(item.get("Rationale For Rating") or item.get("Rationale"), f"{column}.Rationale")
            yield from _judged(why, _rating(item.get("Rating"), f"{column}.Rating"), aspect)


def _judged(text: str | None, score: float | None, aspect: str | None) -> Iterator[Feedback]:
    if (text or "").strip() or score is not None:
        yield make_feedback(
            "critique", text=text, score=score, label=aspect, name=aspect, source="judge", author=JUDGE
        )


def _rating(value: Any, column: str) -> float | None:
    return None if value in (None, "", "N/A") else score_and_label(value, column)[0]
