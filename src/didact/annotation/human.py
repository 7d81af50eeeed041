"""A feedback source of recorded human critiques, looked up by question and exact answer.

The key is the question (up to white space) and the sha256 of the answer's text. Without a recorded critique
the source fails, and the turn leaves every mean and every loss.

A critique with text is preferred to a score or label alone. Of several annotators one is drawn by a hash of
question, answer and seed, and of an annotator's aspects (`Feedback.name`) one. Texts are never joined: joined
critiques may contradict one another, and have no author and no score.
"""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from didact.annotation.targets import AnnotatedAnswer, open_answers, text_sha256
from didact.errors import DataError, UsageError
from didact.feedback_source import FeedbackRequest
from didact.feedback_store import UNKNOWN_AUTHOR, latest
from didact.rng import derive_seed
from didact.types import Example, Feedback

Key = tuple[str, str]
"""The question, and the hash of the answer."""


def _warn(sentence: str) -> None:
    print(f"didact: {sentence}", file=sys.stderr)


class HumanFeedback:
    """Looks up recorded critiques.

    Args:
        records: A run directory, a data file, or examples or answers in memory.
        max_share: The maximum share of one annotator among the critiques, in (0, 1]; a subset drawn by hash
            is kept of those above it.
        quarantined: Annotators to leave out.
        said_by: Feedback sources to use; more than "human" for logs with other critics.

    Raises:
        DataError: there are no critiques by these sources.
        UsageError: `max_share` is out of range, or too small for the number of annotators.
    """

    def __init__(
        self,
        records: str | Path | Iterable[Example | AnnotatedAnswer],
        *,
        seed: int = 0,
        max_share: float = 1.0,
        quarantined: Collection[str] = (),
        said_by: Collection[str] = ("human",),
    ) -> None:
        if not 0 < max_share <= 1:
            raise UsageError(f"max_share must lie in (0, 1], not {max_share}")
        self.seed = seed
        where = "the data"
        if isinstance(records, str | Path):
            where, records = str(records), open_answers(Path(records)).answers()
        recorded: dict[Key, list[Feedback]] = defaultdict(list)
        for record in records:
            answer = AnnotatedAnswer.of(record) if isinstance(record, Example) else record
            recorded[answer.problem.question_key, answer.sha256] += [
                f for f in answer.feedback if f.source in said_by and f.ok
            ]
        found: dict[Key, list[Feedback]] = {}
        for key, feedback in recorded.items():
            final = list(latest(feedback))
            found[key] = [f for f in final if f.text.strip()] or final
        left = {k: [f for f in fs if f.provenance.author not in quarantined] for k, fs in found.items()}
        if removed := sum(map(len, found.values())) - sum(map(len, left.values())):
            _warn(f"{removed} critiques by quarantined annotators are left out")
        if not any(left.values()):
            raise DataError(
                f"{where} has no critiques by {' or '.join(said_by)}: `didact critique export`, let somebody "
                "fill the table in, then `didact critique import`"
            )
        self._recorded = _cap(left, max_share, seed)

    reads_completions = True
    """Its critiques are recorded for whole completions."""

    def __len__(self) -> int:
        """The number of answers with a critique."""
        return len(self._recorded)

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """The recorded critique of each answer, or a failed feedback."""
        return [self._one(request) for request in requests]

    def _one(self, request: FeedbackRequest) -> Feedback:
        key = request.problem.question_key, text_sha256(request.turn.text)
        recorded = self._recorded.get(key)
        if not recorded:
            return request.failed("nobody has criticised this answer", author="nobody", source="human")
        by_author: dict[tuple[str, str], list[Feedback]] = defaultdict(list)
        for feedback in recorded:
            author = feedback.provenance.label
            by_author[author, feedback.text if author == UNKNOWN_AUTHOR else ""].append(feedback)
        authors = sorted(by_author)
        author_key = authors[derive_seed(self.seed, "human", *key) % len(authors)]
        pieces = sorted(by_author[author_key], key=_content)
        chosen = pieces[derive_seed(self.seed, "human-name", *key) % len(pieces)]
        return chosen.model_copy(update={"turn": request.index})


def _cap(recorded: Mapping[Key, list[Feedback]], max_share: float, seed: int) -> dict[Key, list[Feedback]]:
    """Limit each annotator to a share of the remaining critiques, drawn by hash."""
    counts = Counter(f.provenance.label for feedback in recorded.values() for f in feedback)
    if max_share * len(counts) < 1:
        needed = math.ceil(1 / max_share)
        raise UsageError(f"max_share {max_share} needs {needed} annotators, but there are {len(counts)}")
    limit = _limit(counts, max_share)
    kept = dict(recorded)
    for author, count in sorted(counts.items()):
        if count <= limit:
            continue
        pieces = [
            (key, f) for key, feedback in kept.items() for f in feedback if f.provenance.label == author
        ]
        pieces.sort(key=lambda at: (derive_seed(seed, "annotator-cap", author, *at[0]), _content(at[1])))
        for key, removed in pieces[limit:]:
            kept[key] = [f for f in kept[key] if f is not removed]
        _warn(
            f"{author!r} wrote {count} of {sum(counts.values())} critiques, more than a share of "
            f"{max_share:g}: {count - limit} are left out"
        )
    return {key: feedback for key, feedback in kept.items() if feedback}


def _limit(counts: Mapping[str, int], max_share: float) -> int:
    """The largest limit per annotator that is at most `max_share` of what it leaves."""
    for limit in range(max(counts.values()), 1, -1):
        kept = [min(count, limit) for count in counts.values()]
        if max(kept) <= max_share * sum(kept):
            return limit
    return 1


def _content(feedback: Feedback) -> tuple[str, str]:
    """A sort key that does not depend on the order in the file."""
    return feedback.name or "", repr(feedback)
