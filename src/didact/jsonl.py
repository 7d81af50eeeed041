"""JSON Lines files: locked appends, reads while they grow, and atomic rewrites.

Appends and rewrites happen inside `locked`, so any number of processes may write. The lock is on the file
itself, leaves no lock file behind, and is taken again if a rewrite has replaced the file meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import resources
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import yaml

from didact.distributed import on_main_process
from didact.errors import DataError

Json = dict[str, Any]


class Line(NamedTuple):
    """One complete line of a file."""

    number: int
    """Counted from 1."""
    raw: bytes
    """Its bytes without the newline."""
    record: Json


def append_jsonl(file: Path, records: Iterable[Json]) -> None:
    """Append records in a single write, safe among concurrent writers; removes a torn last line first."""
    data = encode(records)
    if data:
        with locked(file) as handle:
            append_to(handle, data)


def filter_jsonl(file: Path, keep: Callable[[Json], bool]) -> int:
    """Rewrite a file atomically with the records for which `keep` is true; returns how many were removed."""
    return rewrite_jsonl(file, lambda record: record if keep(record) else None)


def rewrite_jsonl(file: Path, to: Callable[[Json], Json | None]) -> int:
    """Map the records of a file and rewrite it atomically; unchanged lines keep their bytes.

    `to` maps a record to itself, to another, or to None to remove it. Returns the number of removed records.
    """
    if not file.exists():
        return 0
    with locked(file) as handle:
        data = read_all(handle)
        lines = list(parse_lines(data, file))
        kept: list[bytes] = []
        for line in lines:
            after = to(line.record)
            if after is not None:
                kept.append(line.raw if after is line.record else encode([after]).rstrip(b"\n"))
        replace_lines(file, data, kept)
    return len(lines) - len(kept)


def replace_lines(file: Path, before: bytes, lines: Iterable[bytes]) -> None:
    """Atomically replace a locked file's content by lines without newlines, unless it is `before`."""
    after = b"".join(line + b"\n" for line in lines)
    if after != before:
        write_atomically(file, after)
        sync(file.resolve().parent)


def read_jsonl(file: Path) -> Iterator[Json]:
    """Records of a file, none if it is missing; DataError for a line that is none, unless it is the last."""
    if file.exists():
        for line in parse_lines(file.read_bytes(), file):
            yield line.record


def encode(records: Iterable[Json]) -> bytes:
    """Records as lines of UTF-8. Lone surrogates, which UTF-8 cannot hold, are escaped.

    >>> encode([{"a": "é"}, {"a": "\\ud800"}])
    b'{"a": "\\xc3\\xa9"}\\n{"a": "\\\\ud800"}\\n'
    """
    lines = []
    for record in records:
        try:
            lines.append(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        except UnicodeEncodeError:
            lines.append(json.dumps(record).encode() + b"\n")
    return b"".join(lines)


def parse_lines(data: bytes, file: Path) -> Iterator[Line]:
    """The complete lines of a file's content, without blank ones and a torn last one; see `read_jsonl`."""
    lines = data.split(b"\n")
    for number, raw in enumerate(lines, start=1):
        if not raw.strip():
            continue
        try:
            record = json.loads(raw)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                return
            raise line_error(file, number, f" is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise line_error(file, number, f" must hold a JSON object, not a {type(record).__name__}")
        yield Line(number, raw, record)


def line_error(file: Path, number: int, what: str) -> DataError:
    """The error for an unusable line of a file."""
    return DataError(f"{file}, line {number}{what}. Mend or remove that line; nothing was changed.")


@contextmanager
def locked(file: Path, *, write: bool = True) -> Iterator[FileIO]:
    """Hold an exclusive (`write`) or shared lock on a file.

    Read through the handle inside the block: a nested `locked` on the same file would deadlock. A missing
    file is created to write.

    Raises:
        FileNotFoundError: there is nothing to read.
        DataError: the file system does not support locks.
    """
    while True:
        with file.open("ab+" if write else "rb", buffering=0) as handle:  # closing it releases the lock
            _lock(file, handle, write)
            if _is_still_at(file, handle):  # else the last holder of the lock has replaced the file
                yield handle
                return


def _lock(file: Path, handle: FileIO, write: bool) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if write else fcntl.LOCK_SH)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        raise DataError(
            f"{file} cannot be locked ({error.strerror}), so writes could be lost: put it on a file system "
            "with locks, such as a local disk"
        ) from None


def _is_still_at(file: Path, handle: FileIO) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), file.stat())
    except FileNotFoundError:
        return False


def read_all(handle: FileIO) -> bytes:
    """The whole content of an open file."""
    handle.seek(0)
    return handle.readall()


def append_to(handle: FileIO, data: bytes) -> None:
    """Append complete lines to a locked file, after repairing a torn last line; undoes a partial write."""
    _repair_last_line(handle)
    length = handle.seek(0, os.SEEK_END)
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[handle.write(rest) or 0 :]
    except BaseException:
        handle.truncate(length)
        raise


def _repair_last_line(handle: FileIO) -> None:
    """Add a missing newline to a complete last record; remove an incomplete one."""
    length = handle.seek(0, os.SEEK_END)
    if length == 0:
        return
    handle.seek(length - 1)
    if handle.read(1) == b"\n":
        return
    data = read_all(handle)
    start = data.rfind(b"\n") + 1
    try:
        complete = isinstance(json.loads(data[start:]), dict)
    except (ValueError, RecursionError):
        complete = False
    if complete:
        handle.write(b"\n")
    else:
        handle.truncate(start)


def read_package_yaml(package: str, name: str) -> Any:
    """A YAML file that a package has beside its modules; no collective, since imports may call it."""
    return yaml.safe_load(resources.files(package).joinpath(name).read_text("utf-8"))


@on_main_process
def write_atomically(file: Path, content: str | bytes) -> None:
    """Replace a file's content; see `open_atomically`."""
    with open_atomically(file) as handle:
        handle.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def open_atomically(file: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `file` when the block ends, after a sync.

    Readers see the old content or the new one. An error inside the block leaves `file` as it was. An
    existing file keeps its permissions, and a link keeps pointing to it.
    """
    file = file.resolve()
    temporary = file.with_name(f".{file.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as handle:
            if file.exists():
                os.fchmod(handle.fileno(), file.stat().st_mode & 0o7777)
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Sync a file's content, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
