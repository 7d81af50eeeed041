"""SLF5K, summaries with language feedback (JeremyAlain/SLF5K; Scheurer et al. 2023, arXiv:2303.16755).

Columns after its dataset card as of 2023: `id`, `subreddit`, `title`, `post`, `summary_prompt`,
`generated_summary_for_feedback`, `feedback`, `feedback_class` (Coverage, Accuracy, Coherence, other),
`has_additional_feedback`, `ideal_human_summary`, `tldr_human_reference_summary`, and two summaries for
comparison. The complete list could not be confirmed: only title or post, the summary and the feedback
are required, and any other column is kept in the metadata. The set ships as a loading script, which
`datasets` 4 and later refuse; export it to JSON lines or CSV first.

`ideal_human_summary` becomes the private reference, and `feedback_class` the label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from didact.data.faults import RawRow, Rejected, row_error
from didact.data.importers.base import (
    Outcome,
    by_row,
    make_example,
    make_feedback,
    maybe_text,
    row_id,
)
from didact.errors import did_you_mean
from didact.types import Example, Message

TAKEN = ("id", "summary_prompt", "title", "post", "generated_summary_for_feedback", "feedback",
         "feedback_class", "ideal_human_summary")  # fmt: skip


def import_slf5k(rows: Iterable[RawRow | Rejected], mapping: Mapping[str, str]) -> Iterator[Outcome]:
    """One example a row."""
    return by_row(rows, _examples)


def _examples(row: RawRow) -> Iterator[Example]:
    value = row.value
    for column in ("generated_summary_for_feedback", "feedback"):
        if column not in value:
            near = did_you_mean(column, map(str, value)).replace("Valid:", "Columns:")
            raise row_error(
                column, f"is missing: {near}; this importer reads SLF5K, `csv` and `jsonl` read others"
            )
    prompt = maybe_text(value.get("summary_prompt"), "summary_prompt")
    if prompt is None:
        title, post = (maybe_text(value.get(key), key) for key in ("title", "post"))
        if title is None and post is None:
            raise row_error("post", "there is no title, post or summary_prompt; complete the row")
        prompt = f"Title: {title or ''}\nText: {post or ''}\nTL;DR:"
    text = maybe_text(value["feedback"], "feedback") or ""
    label = maybe_text(value.get("feedback_class"), "feedback_class")
    has_feedback = bool(text.strip() or label)
    yield make_example(
        row_id(row),
        (Message(role="user", content=prompt),),
        maybe_text(value["generated_summary_for_feedback"], "generated_summary_for_feedback") or "",
        [make_feedback("feedback", text=text, label=label, source="human", author="slf5k")]
        if has_feedback
        else [],
        reference=maybe_text(value.get("ideal_human_summary"), "ideal_human_summary"),
        metadata={key: inner for key, inner in value.items() if key not in TAKEN},
    )
