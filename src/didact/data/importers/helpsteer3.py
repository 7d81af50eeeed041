"""HelpSteer3, config "feedback" (nvidia/HelpSteer3 on the Hugging Face hub, CC-BY-4.0).

Shape after its dataset card, of which a part was seen (first release March 2025): `feedback/train.jsonl.gz`,
a row with `domain`, `language`, `context` (chat messages), `response1`, `response2`, and `feedback1`,
`feedback2`: up to three critiques of each response, by different annotators, opening with "The response
is {not|slightly|partially|mostly|perfectly} helpful". That opening becomes the label.

The card names no annotators: `helpsteer3:annotator-1` is a position in the list, not a person.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from didact.data.faults import RawRow, Rejected, RowError, expected, row_error
from didact.data.importers.base import Outcome, by_row, log_messages, make_example, make_feedback, row_id
from didact.types import Example, Feedback

OPENING = re.compile(r"\s*The response is (\w+(?: \w+)?) helpful", re.IGNORECASE)


def import_helpsteer3(rows: Iterable[RawRow | Rejected], mapping: Mapping[str, str]) -> Iterator[Outcome]:
    """Two examples a row."""
    return by_row(rows, _examples)


def _examples(row: RawRow) -> Iterator[Example | RowError]:
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
            feedback = _feedback(value.get(f"feedback{side}"), f"feedback{side}")
            yield make_example(f"{identity}/{side}", messages, answer, feedback, metadata=metadata)
        except RowError as error:
            yield error


def _feedback(value: Any, column: str) -> Iterator[Feedback]:
    critiques = [value] if isinstance(value, str) else value
    if not isinstance(critiques, list) or not critiques:
        raise RowError(expected(column, "a list of critiques", value, "complete the row"))
    for i, text in enumerate(critiques, start=1):
        where = f"{column}[{i - 1}]"
        if not isinstance(text, str):
            raise RowError(expected(where, "text", text, "remove the critique"))
        opening = OPENING.match(text)
        label = f"{opening[1].lower()} helpful" if opening else None
        author = f"helpsteer3:annotator-{i}"
        yield make_feedback(where, text=text, label=label, source="human", author=author)
