"""Public datasets of answers with feedback; shapes: docs/data.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from didact.data.faults import Fault, RawRow, Rejected, RowError, columns_near, expected, row_error
from didact.data.importers.base import (
    Importer,
    Outcome,
    log_messages,
    make_example,
    make_feedback,
    maybe_text,
    score_and_label,
)
from didact.data.rows import stem
from didact.types import Example, Feedback, Message

HELPFUL = re.compile(r"\s*The response is (\w+(?: \w+)?) helpful", re.IGNORECASE)
SLF5K_COLUMNS = ("id", "summary_prompt", "title", "post", "generated_summary_for_feedback", "feedback",
                 "feedback_class", "ideal_human_summary")  # fmt: skip


def by_row(convert: Callable[[RawRow], Iterable[Example | RowError]]) -> Importer:
    """An importer of rows one by one, each of which may give several examples and several faults."""

    def import_(rows: Iterable[RawRow | Rejected], _: Mapping[str, str]) -> Iterator[Outcome]:
        row_of: dict[str, RawRow] = {}
        for row in rows:
            if isinstance(row, Rejected):
                yield row
                continue
            examples: list[Example] = []
            faults: list[Fault] = []
            try:
                for item in convert(row):
                    if isinstance(item, RowError):
                        faults += item.faults
                    elif (first := row_of.setdefault(item.id, row)) is row:
                        examples.append(item)
                    else:
                        where = f"row {first.row} of {first.file.name}"
                        faults.append(Fault("id", f"{item.id!r} is already the id of {where}"))
            except RowError as error:
                faults += error.faults
            if faults:
                yield row.rejected(RowError(*faults))
            yield from examples

    return import_


def row_id(row: RawRow) -> str:
    """The row's id, or the file's name and the row's number."""
    found = row.value.get("id")
    if isinstance(found, str | int) and not isinstance(found, bool) and found != "":
        return str(found)
    return f"{stem(row.file)}/{row.row}"


def helpsteer3_examples(row: RawRow) -> Iterator[Example | RowError]:
    """Two examples a row."""
    value = row.value
    if "overall_preference" in value or "individual_preference" in value:
        raise row_error(None, 'this is the config "preference"; import the config "feedback"')
    messages = log_messages(value.get("context"), "context")
    identity = row_id(row)
    metadata = {key: value.get(key) for key in ("domain", "language")}
    for side in (1, 2):
        try:
            answer = value.get(f"response{side}")
            if not isinstance(answer, str):
                raise RowError(expected(f"response{side}", "text", answer, "complete the row"))
            feedback = _critiques(value.get(f"feedback{side}"), f"feedback{side}")
            yield make_example(f"{identity}/{side}", messages, answer, feedback, metadata=metadata)
        except RowError as error:
            yield error


def _critiques(value: Any, column: str) -> Iterator[Feedback]:
    critiques = [value] if isinstance(value, str) else value
    if not isinstance(critiques, list) or not critiques:
        raise RowError(expected(column, "a list of critiques", value, "complete the row"))
    for i, text in enumerate(critiques, start=1):
        where = f"{column}[{i - 1}]"
        if not isinstance(text, str):
            raise RowError(expected(where, "text", text, "remove the critique"))
        opening = HELPFUL.match(text)
        label = f"{opening[1].lower()} helpful" if opening else None
        author = f"helpsteer3:annotator-{i}"
        yield make_feedback(where, text=text, label=label, source="human", author=author)


def slf5k_examples(row: RawRow) -> Iterator[Example]:
    """One example a row."""
    value = row.value
    for column in ("generated_summary_for_feedback", "feedback"):
        if column not in value:
            near = columns_near(column, value)
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
        metadata={key: inner for key, inner in value.items() if key not in SLF5K_COLUMNS},
    )


def ultrafeedback_examples(row: RawRow) -> Iterator[Example | RowError]:
    """One example a completion, with its critique and its ratings."""
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
            metadata = {key: completion.get(key) for key in ("model", "principle")}
            yield make_example(
                f"{identity}/{i + 1}",
                (*asked, Message(role="user", content=instruction)),
                maybe_text(completion.get("response"), f"{where}.response") or "",
                _ratings(completion, where),
                metadata={**metadata, "source": value.get("source")},
            )
        except RowError as error:
            yield error


def _ratings(completion: dict[str, Any], where: str) -> Iterator[Feedback]:
    text = maybe_text(completion.get("critique"), f"{where}.critique")
    yield from _rated(text, completion.get("overall_score"), f"{where}.overall_score", None)
    annotations = completion.get("annotations")
    if annotations is None:
        return
    if not isinstance(annotations, dict):
        raise RowError(expected(f"{where}.annotations", "an object", annotations, "complete the row"))
    for aspect, rated in annotations.items():
        column = f"{where}.annotations.{aspect}"
        for item in rated if isinstance(rated, list) else [rated]:
            if isinstance(item, dict):
                why = item.get("Rationale For Rating") or item.get("Rationale")
                text = maybe_text(why, f"{column}.Rationale")
                yield from _rated(text, item.get("Rating"), f"{column}.Rating", aspect)


def _rated(text: str | None, rating: Any, column: str, aspect: str | None) -> Iterator[Feedback]:
    score = None if rating in (None, "", "N/A") else score_and_label(rating, column)[0]
    if (text or "").strip() or score is not None:
        yield make_feedback(
            "critique", text=text, score=score, label=aspect, name=aspect, source="judge", author="gpt-4"
        )
