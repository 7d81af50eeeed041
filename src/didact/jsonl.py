"""Files of one JSON object a line: appended to, read while they grow, and rewritten whole or not at all.

Whoever appends or rewrites works inside `locked`, so that any number of processes may: the lock is on
the file itself, nothing is left beside it, and it is taken anew if somebody has put a rewritten file in
its place in the meantime.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from didact.errors import DataError

Json = dict[str, Any]


class Line(NamedTuple):
    """One whole line of a file."""

    number: int
    """Counted from 1."""
    raw: bytes
    """As it stands in the file, without the line's end."""
    record: Json


def append_jsonl(file: Path, records: Iterable[Json]) -> None:
    """Append records, one a line, in a single write, while others may do the same.

    A torn last line that a killed process left is cut off first: it would otherwise swallow the next
    record, or stay as a broken line in the middle.
    """
    data = encode(records)
    if data:
        with locked(file) as handle:
            append_to(handle, data)


def filter_jsonl(file: Path, wanted: Callable[[Json], bool]) -> int:
    """Rewrite a file without the unwanted records, in one piece; kept lines stay as they are.

    Returns:
        How many records are gone.
    """
    if not file.exists():
        return 0
    with locked(file) as handle:
        data = read_all(handle)
        lines = list(parse_lines(data, file))
        kept = [line.raw for line in lines if wanted(line.record)]
        replace_lines(file, data, kept)
    return len(lines) - len(kept)


def replace_lines(file: Path, before: bytes, lines: Iterable[bytes]) -> None:
    """Put a locked file's lines anew, unless nothing differs; half a last line does not stay either.

    Args:
        file: The file, held in `locked`.
        before: All of its bytes.
        lines: Without their ends.
    """
    after = b"".join(line + b"\n" for line in lines)
    if after != before:
        write_atomically(file, after)
        sync(file.resolve().parent)


def read_jsonl(file: Path) -> Iterator[Json]:
    """Records of a JSONL file; a torn last line is passed over, a missing file has none.

    Raises:
        DataError: a line before the last is not a JSON object.
    """
    if file.exists():
        for line in parse_lines(file.read_bytes(), file):
            yield line.record


def encode(records: Iterable[Json]) -> bytes:
    """Records as lines of UTF-8. Half a surrogate pair, which UTF-8 cannot hold, is escaped.

    >>> encode([{"a": "é"}, {"a": "\\ud800"}])
    b'{"a": "\\xc3\\xa9"}\\n{"a": "\\\\ud800"}\\n'
    """
    return b"".join(_encode(record) for record in records)


def parse_lines(data: bytes, file: Path) -> Iterator[Line]:
    """The whole lines of a file's bytes; blank ones and a torn last one are passed over.

    Args:
        data: The bytes.
        file: Named in an error.

    Raises:
        DataError: a line before the last is not a JSON object.
    """
    lines = data.split(b"\n")
    for number, raw in enumerate(lines, start=1):
        if not raw.strip():
            continue
        try:
            record = json.loads(raw)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                return
            raise DataError(
                f"{file}, line {number} is not JSON: {error}. Mend or remove that line; nothing was changed."
            ) from None
        if not isinstance(record, dict):
            raise DataError(
                f"{file}, line {number} must hold a JSON object, not a {type(record).__name__}. "
                "Mend or remove that line; nothing was changed."
            )
        yield Line(number, raw, record)


@contextmanager
def locked(file: Path, *, write: bool = True) -> Iterator[FileIO]:
    """Hold a file against everybody else who works inside `locked`; many may read at once.

    Inside, read through the handle: a second `locked` on the file would wait for the first for ever.

    Args:
        file: Made if it is not there and is to be written.
        write: Alone, to append or rewrite; else shared, to read.

    Raises:
        FileNotFoundError: there is nothing to read.
        DataError: the file system has no locks, so several writers would not be safe.
    """
    while True:
        handle = file.open("ab+" if write else "rb", buffering=0)
        try:
            _lock(file, handle, write)
            # Whoever held the lock may have renamed another file into this one's place.
            if not _still_at(file, handle):
                handle.close()
                continue
            yield handle
            return
        finally:
            handle.close()  # and with it the lock


def read_all(handle: FileIO) -> bytes:
    """All bytes of an open file."""
    handle.seek(0)
    return handle.readall()


def append_to(handle: FileIO, data: bytes) -> None:
    """Write whole lines at the end of a file open for appending, after mending a torn last line.

    What cannot be written whole, as on a full disk, is taken back.
    """
    _mend_tail(handle)
    length = handle.seek(0, os.SEEK_END)
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[handle.write(rest) or 0 :]
    except BaseException:
        handle.truncate(length)
        raise


def write_atomically(file: Path, text: str | bytes) -> None:
    """Write beside, sync, then rename: a reader sees the old content or the new, never half.

    A file that was there keeps its permissions, and a link keeps pointing to it.
    """
    file = file.resolve()
    aside = file.with_name(f".{file.name}.tmp")
    data = text.encode() if isinstance(text, str) else text
    with aside.open("wb") as handle:
        if file.exists():
            os.fchmod(handle.fileno(), file.stat().st_mode & 0o7777)
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    aside.replace(file)


def sync(path: Path) -> None:
    """Wait until the disk holds a file as it is, or knows which files a folder holds."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _encode(record: Json) -> bytes:
    try:
        return (json.dumps(record, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(record) + "\n").encode()


def _lock(file: Path, handle: FileIO, write: bool) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if write else fcntl.LOCK_SH)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        raise DataError(
            f"{file} cannot be locked ({error.strerror}), so words could be lost: put it on a file system "
            "with locks, as a local disk"
        ) from None


def _still_at(file: Path, handle: FileIO) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), file.stat())
    except FileNotFoundError:
        return False


def _mend_tail(handle: FileIO) -> None:
    """End the last line: a whole record that lacks only its line end gets one, half a record goes."""
    length = handle.seek(0, os.SEEK_END)
    if length == 0:
        return
    handle.seek(length - 1)
    if handle.read(1) == b"\n":
        return
    data = read_all(handle)
    start = data.rfind(b"\n") + 1
    try:
        whole = isinstance(json.loads(data[start:]), dict)
    except (ValueError, RecursionError):
        whole = False
    if whole:
        handle.write(b"\n")
    else:
        handle.truncate(start)
