"""What people wrote, as a feedback source: the critique on file for exactly this answer.

A critique belongs to one question and one answer, to the letter. It is found by what is asked (white space
aside) and the sha256 of the answer's text, never by likeness: for an answer that nobody has criticised the
source fails, and the turn leaves every mean and every loss.

A score or label without words is no critique to revise by, so it is heard only where nobody wrote words.
Of several annotators one is drawn by a hash of question, answer and seed, and of one who wrote on several
things (`Feedback.name`) one of these. Texts are not joined: joined critiques may contradict one another, and
have no author and no score. Another seed hears other annotators.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from didact.annotation.targets import AnnotatedAnswer, open_answers, sha256
from didact.errors import DataError, UsageError
from didact.feedback_source import FeedbackRequest
from didact.feedback_store import UNKNOWN_AUTHOR, latest
from didact.rng import derive_seed
from didact.types import Example, Feedback, Problem, Provenance

Key = tuple[str, str]
"""What is asked, and the hash of the answer."""


def _warn(sentence: str) -> None:
    print(f"didact: {sentence}", file=sys.stderr)


class HumanFeedback:
    """Looks up what people wrote about an answer.

    Args:
        records: A run directory, a data file, or examples or answers that are in memory.
        seed: Which annotator is heard where there are several.
        max_share: No annotator has more than this share of the critiques, in (0, 1]; of those who have
            more, a part is drawn by hash. 1 takes all.
        quarantined: Annotators whose words are not used.
        said_by: Sources whose words are used; more than "human" for logs with other critics in them.
        warn: Told in a sentence what is left out.

    Raises:
        DataError: there are no critiques by these sources.
        UsageError: `max_share` is out of range, or so small that more annotators would be needed.
    """

    def __init__(
        self,
        records: str | Path | Iterable[Example | AnnotatedAnswer],
        *,
        seed: int = 0,
        max_share: float = 1.0,
        quarantined: Collection[str] = (),
        said_by: Collection[str] = ("human",),
        warn: Callable[[str], None] = _warn,
    ) -> None:
        if not 0 < max_share <= 1:
            raise UsageError(f"max_share must lie in (0, 1], not {max_share}")
        self.seed = seed
        where, answers = _answers(records)
        said: dict[Key, list[Feedback]] = defaultdict(list)
        for answer in answers:
            people = [f for f in answer.feedback if f.source in said_by and f.ok]
            said[_key(answer.problem, answer.sha256)] += people
        found = {key: _with_words(latest(people)) for key, people in said.items() if people}
        found = _without(found, quarantined, warn)
        if not found:
            raise DataError(
                f"{where} has no critiques by {' or '.join(said_by)}: `didact critique export`, let somebody "
                "fill the table in, then `didact critique import`"
            )
        self._said = cap(found, max_share, seed=seed, warn=warn)

    def __len__(self) -> int:
        """How many answers somebody has criticised."""
        return len(self._said)

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """The critique on file for each answer, or a failed feedback."""
        return [self._one(request) for request in requests]

    def _one(self, request: FeedbackRequest) -> Feedback:
        key = _key(request.problem, sha256(request.turn.text))
        people = self._said.get(key)
        if not people:
            return Feedback(
                turn=request.index, source="human", status="failed", saw_reference=False,
                error="nobody has criticised this answer", provenance=Provenance(author="nobody"),
            )  # fmt: skip
        by_author: dict[tuple[str, str], list[Feedback]] = defaultdict(list)
        for said in people:
            author = said.provenance.label
            by_author[author, said.text if author == UNKNOWN_AUTHOR else ""].append(said)
        voices = [by_author[author] for author in sorted(by_author)]
        voice = sorted(voices[derive_seed(self.seed, "human", *key) % len(voices)], key=_content)
        chosen = voice[derive_seed(self.seed, "human-name", *key) % len(voice)]
        return chosen.model_copy(update={"turn": request.index})


def cap(
    said: Mapping[Key, Sequence[Feedback]],
    max_share: float,
    *,
    seed: int = 0,
    warn: Callable[[str], None] = _warn,
) -> dict[Key, list[Feedback]]:
    """Leave out critiques of annotators who wrote more than their share of what is then left.

    Which ones stay is drawn by hash, so it depends on no order.

    Raises:
        UsageError: there are too few annotators for so small a share.
    """
    counts = Counter(f.provenance.label for people in said.values() for f in people)
    if max_share * len(counts) < 1:
        needed = -int(-1 // max_share)
        raise UsageError(f"max_share {max_share} needs {needed} annotators, but there are {len(counts)}")
    limit = _limit(counts, max_share)
    kept = {key: list(people) for key, people in said.items()}
    for author, count in sorted(counts.items()):
        if count <= limit:
            continue
        theirs = [(key, f) for key, people in kept.items() for f in people if f.provenance.label == author]
        theirs.sort(key=lambda at: (derive_seed(seed, "annotator-cap", author, *at[0]), _content(at[1])))
        for key, gone in theirs[limit:]:
            kept[key] = [f for f in kept[key] if f is not gone]
        warn(
            f"{author!r} wrote {count} of {sum(counts.values())} critiques, more than a share of "
            f"{max_share:g}: {count - limit} are left out"
        )
    return {key: people for key, people in kept.items() if people}


def _limit(counts: Mapping[str, int], max_share: float) -> int:
    """The most critiques of one annotator that are at most `max_share` of what all then have."""
    for limit in range(max(counts.values()), 1, -1):
        kept = [min(count, limit) for count in counts.values()]
        if max(kept) <= max_share * sum(kept):
            return limit
    return 1


def _with_words(said: Sequence[Feedback]) -> list[Feedback]:
    """Those with words, or all where nobody wrote any: a score alone is nothing to revise by."""
    return [f for f in said if f.text.strip()] or list(said)


def _content(feedback: Feedback) -> tuple[str, str]:
    """Puts one author's pieces into an order that does not depend on the file's."""
    return feedback.name or "", repr(feedback)


def _without(
    said: Mapping[Key, list[Feedback]], quarantined: Collection[str], warn: Callable[[str], None]
) -> dict[Key, list[Feedback]]:
    left = {k: [f for f in people if f.provenance.author not in quarantined] for k, people in said.items()}
    gone = sum(map(len, said.values())) - sum(map(len, left.values()))
    if gone:
        warn(f"{gone} critiques by quarantined annotators are left out")
    return {key: people for key, people in left.items() if people}


def _answers(
    records: str | Path | Iterable[Example | AnnotatedAnswer],
) -> tuple[str, Iterable[AnnotatedAnswer]]:
    if isinstance(records, str | Path):
        return str(records), open_answers(Path(records)).answers()
    return "the data", [r if isinstance(r, AnnotatedAnswer) else AnnotatedAnswer.of(r) for r in records]


def _key(problem: Problem, answer_sha256: str) -> Key:
    return problem.question_key, answer_sha256
