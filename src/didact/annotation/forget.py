"""Erasure of a person's data from run directories and data files.

Removed are the critiques that the person wrote, also those dealt to other answers by a control, and, in data
files, the examples whose `user` they are.

A revision's prompt contains the critique, so its `prompt_ids` are emptied; with `drop_rollouts` the whole
rollout is removed. Answers, exported tables, reports and copies may repeat the text: files under the given
paths that still contain it verbatim are reported, and so are JSON lines that could not be searched, and runs
whose weights were trained on it.

Each folder gets a `forgotten.jsonl` with the time, the counts and the sha256 of the person's id, which
confirms a guessed id.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import yaml

from didact.annotation.targets import ExampleFile, cache_folder
from didact.errors import DataError, UsageError, did_you_mean
from didact.feedback_store import FeedbackStore, is_by
from didact.jsonl import Json, append_jsonl, read_jsonl, rewrite_jsonl
from didact.types import Example, Feedback

NOTE = "forgotten.jsonl"
SHORTEST = 12
"""Minimum length of a removed text to search for elsewhere, in characters."""
_TEXT_FILES = (".jsonl", ".json", ".csv", ".yaml", ".yml", ".md", ".html", ".txt")
_RUN_FILES = ("rollouts.jsonl", "feedback.jsonl", "evaluations.jsonl")
_OF_RUNS = (*_RUN_FILES, "metrics.jsonl", "timing.jsonl")


@dataclass
class Removed:
    """What was removed from one run directory or data file."""

    path: Path
    feedback: int = 0
    examples: int = 0
    prompts: int = 0
    """Emptied ones."""
    rollouts: int = 0
    learned: str | None = None
    """How a run's weights were trained on the text; None if they were not."""
    texts: set[str] = field(default_factory=set, repr=False)

    def __bool__(self) -> bool:
        return bool(self.feedback or self.examples or self.prompts or self.rollouts)


@dataclass(frozen=True)
class ForgetReport:
    """What was removed, and what could not be."""

    removed: tuple[Removed, ...]
    """The run directories and data files with removals, or trained on removed text."""
    still: tuple[Path, ...]
    """Files that still contain removed text verbatim."""
    searched: int
    """The number of run directories and data files searched."""
    near: str
    """The nearest existing names, if nothing was found."""
    unsearched: tuple[tuple[Path, str], ...]
    """JSON lines under the paths that are not valid data files, with the reasons."""


def forget(person: str, paths: Sequence[Path], *, drop_rollouts: bool = False) -> ForgetReport:
    """Remove the data of a person, who is an annotator's id and the `user` of examples.

    The paths are run directories, data files, and directories to search for both. Every file is validated
    before the first is changed, and each is rewritten atomically. `drop_rollouts` removes rollouts with a
    revision prompted by the critiques, or with the question of a removed example.
    """
    if not person.strip():
        raise UsageError("whose words? Give --user")
    runs, files, unsearched = _find(paths)
    if not runs and not files:
        others = "".join(f"; {path} is none: {why}" for path, why in unsearched[:3])
        raise UsageError(f"no run directory and no data file in {', '.join(map(str, paths))}{others}")
    people = _all_names(runs, files)
    hashes = {file: _sha256(file) for file in (*files, *(run / "feedback.jsonl" for run in runs))}
    gone: list[Example] = []
    removed = {file: _from_file(person, file, gone) for file in files}
    asked = {_problem_key(e.problem.model_dump(mode="json")) for e in gone} if drop_rollouts else set()
    for run in runs:
        removed[run] = _from_run(person, run, asked, drop_rollouts)
    _mark_learners(runs, removed, hashes)
    found = tuple(r for r in removed.values() if r or r.learned)
    for entry in filter(None, found):
        _leave_note(person, entry)
    texts = set().union(*(r.texts for r in found))
    near = ""
    if not any(found):
        near = did_you_mean(person, people) if people else "nobody has written anything there"
    still = tuple(_still_holding(texts, paths, files))
    return ForgetReport(found, still, len(runs) + len(files), near, tuple(unsearched))


def _find(paths: Iterable[Path]) -> tuple[list[Path], list[Path], list[tuple[Path, str]]]:
    """Run directories, data files, and other JSON lines with why they cannot be searched."""
    runs: dict[Path, None] = {}
    files: dict[Path, None] = {}
    unsearched: dict[Path, str] = {}
    for path in paths:
        if not path.exists():
            raise UsageError(
                f"there is no {str(path)!r}: name run directories, data files or folders of them"
            )
        if path.is_file():
            in_run = path.name in _RUN_FILES and _is_run(path.parent)
            (runs if in_run else files)[path.parent if in_run else path] = None
            continue
        runs |= {folder: None for folder in [path, *sorted(path.rglob("*"))] if _is_run(folder)}
        for file in sorted([*path.rglob("*.jsonl"), *path.rglob("*.jsonl.gz")]):
            if file.name == NOTE or (file.name in _OF_RUNS and file.parent in runs):
                continue
            if why := _unusable(file):
                unsearched[file] = why
            else:
                files[file] = None
    return list(runs), list(files), [(f, why) for f, why in unsearched.items() if f not in files]


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and any((folder / name).is_file() for name in _RUN_FILES)


def _unusable(file: Path) -> str | None:
    """Why a file is not a valid data file; None if it is."""
    try:
        ExampleFile(file).check_writable()
    except DataError as error:
        return str(error).removeprefix(str(file)).lstrip(",: ").split(". Nothing was changed")[0]
    except OSError as error:
        return error.strerror or "it cannot be read"
    return None


def _all_names(runs: Iterable[Path], files: Iterable[Path]) -> set[str]:
    """All authors and users. Validates every file, so that an invalid line stops before any change."""
    feedback = [entry.feedback for run in runs for entry in FeedbackStore(run / "feedback.jsonl").read()]
    for run in runs:
        for name in ("rollouts.jsonl", "evaluations.jsonl"):
            for record in read_jsonl(run / name):
                feedback += _feedback(record)
    users = set()
    for file in files:
        ExampleFile(file).check_writable()
        for example in ExampleFile(file).read():
            feedback += example.feedback
            users |= {example.user} if example.user else set()
    return users | {f.provenance.author for f in feedback if f.source == "human"}


def _from_file(person: str, file: Path, gone: list[Example]) -> Removed:
    """Remove from a data file; removed examples are added to `gone`."""
    found = Removed(file)

    def without(example: Example) -> Example | None:
        if example.user == person:
            return None
        if not any(is_by(f, person) for f in example.feedback):
            return example
        kept = tuple(f for f in example.feedback if not is_by(f, person))
        return example.model_copy(update={"feedback": kept})

    for example in ExampleFile(file).change(without):
        theirs = [f for f in example.feedback if is_by(f, person)]
        found.feedback += len(theirs)
        found.texts |= _texts(theirs)
        if example.user == person:
            found.examples += 1
            asked = (m.content for m in example.problem.messages if m.role == "user")
            found.texts |= {example.completion, *asked}
            gone.append(example)
    return found


def _from_run(person: str, run: Path, asked: set[str], drop: bool) -> Removed:
    """Remove from a run; the critiques last, because they determine which prompts contain them."""
    found = Removed(run)
    store = FeedbackStore(run / "feedback.jsonl")
    about: dict[str, int] = {}
    for entry in store.read():
        if is_by(entry.feedback, person):
            turn = entry.feedback.turn
            about[entry.rollout] = min(turn, about.get(entry.rollout, turn))
    dropped: set[str] = set()

    def cleaned(record: Json, first: int | None) -> Json | None:
        """A cleaned rollout, or None to remove it; `first` is the first criticised turn, if known."""
        feedback = _feedback(record)
        theirs = [f for f in feedback if is_by(f, person)]
        turns = [f.turn for f in theirs] + ([] if first is None else [first])
        revised = [i for i, t in enumerate(record["turns"]) if turns and i > min(turns) and t["prompt_ids"]]
        found.feedback += len(theirs)
        found.texts.update(_texts(theirs))
        if drop and (revised or _problem_key(record["problem"]) in asked):
            dropped.add(record["id"])
            return None
        if not revised and not theirs:
            return record
        found.prompts += len(revised)
        after = [{**t, "prompt_ids": []} if i in revised else t for i, t in enumerate(record["turns"])]
        kept = {"feedback": [f.model_dump(mode="json") for f in feedback if not is_by(f, person)]}
        return {**record, "turns": after, **(kept if theirs else {})}

    found.rollouts += rewrite_jsonl(run / "rollouts.jsonl", lambda r: cleaned(r, about.get(r["id"])))
    in_training = set(dropped)
    found.rollouts += rewrite_jsonl(run / "evaluations.jsonl", lambda r: cleaned(r, None))
    gone = store.filter(lambda e: not is_by(e.feedback, person) and e.rollout not in in_training)
    mine = [entry for entry in gone if is_by(entry.feedback, person)]
    found.feedback += len(mine)
    found.texts |= _texts(entry.feedback for entry in mine)
    done = max((record["step"] for record in read_jsonl(run / "metrics.jsonl")), default=0)
    if used := sum(entry.step is not None and entry.step <= done for entry in mine):
        found.learned = f"it trained on {used} of these critiques"
    return found


def _mark_learners(runs: Sequence[Path], removed: dict[Path, Removed], hashes: dict[Path, str]) -> None:
    """Mark runs that were trained on a data file or another run from which something was removed."""
    for run in runs:
        names, known = _inputs(run)
        for path, entry in removed.items():
            if not (entry.feedback or entry.examples) or path == run:
                continue
            file = path if path.is_file() else path / "feedback.jsonl"
            named = {path.resolve(), file.resolve()} & names
            if (named or hashes[file] in known) and removed[run].learned is None:
                removed[run].learned = f"it trained on {path}"


def _inputs(run: Path) -> tuple[set[Path], set[str]]:
    """The paths and hashes of a run's inputs, as far as recorded."""
    texts: set[str] = set()
    hashes: set[str] = set()
    # A run that was killed early may lack one of them.
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        inputs = json.loads((run / "inputs.json").read_bytes())
        texts |= set(inputs)
        hashes |= {value for value in inputs.values() if isinstance(value, str)}
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        texts |= set(_strings(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))))
    return {Path(text).resolve() for text in texts if text and "\0" not in text}, hashes


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _leave_note(person: str, entry: Removed) -> None:
    folder = entry.path if entry.path.is_dir() else entry.path.parent
    note = {
        "author_sha256": hashlib.sha256(person.encode()).hexdigest(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "of": entry.path.name,
        "feedback": entry.feedback,
        "examples": entry.examples,
        "prompts": entry.prompts,
        "rollouts": entry.rollouts,
        "learned": entry.learned is not None,
    }
    append_jsonl(folder / NOTE, [note])


def _still_holding(texts: set[str], paths: Iterable[Path], files: Iterable[Path]) -> Iterator[Path]:
    """Files under the paths, and beside data files, that contain removed text verbatim."""
    needles = {form for text in texts if len(text.strip()) >= SHORTEST for form in _encodings(text.strip())}
    places = {p for path in paths if path.is_dir() for p in path.rglob("*")}
    places |= {p for file in files for p in file.parent.glob(f"{file.stem.split('.')[0]}*")}
    places |= {p for file in files for p in cache_folder(file).rglob("*")}
    for place in sorted(places) if needles else ():
        if place.suffix in _TEXT_FILES and place.is_file():
            data = place.read_bytes()
            if any(needle in data for needle in needles):
                yield place


def _encodings(text: str) -> Iterator[bytes]:
    """A text's encodings in files: plain, in CSV, and in JSON with and without escapes."""
    in_json = (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
    for form in (text, text.replace('"', '""'), *in_json):
        yield form.encode("utf-8", "replace")


def _texts(feedback: Iterable[Feedback]) -> set[str]:
    """The texts of critiques, and the phrases of their spans."""
    return {text for f in feedback for text in (f.text, *(span.phrase or "" for span in f.spans))}


def _feedback(record: Json) -> list[Feedback]:
    return [Feedback.model_validate(f) for f in record.get("feedback", ())]


def _problem_key(problem: Json) -> str:
    return json.dumps([problem["id"], [[m["role"], m["content"]] for m in problem["messages"]]])


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""
