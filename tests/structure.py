"""The size and the language of the project against their limits: `make structure`.

Prints one line a measure and exits with 1 where a limit is broken.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "didact"

SOURCE_LINES, FILE_LINES, FUNCTION_LINES = 36_500, 400, 60
README_BYTES = 9_000
LITERARY_WORDS = 5.0
"""Per 10,000 words of docstrings."""
MATCH_CHARACTERS, MATCH_WORDS = 40, 4

LITERARY = re.compile(r"\b(?:says|said|told|stands|nobody|so many|whoever)\b", re.IGNORECASE)
WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
SYNTAX = re.compile(r"\\[wdsbn]|\.[*+?]|[\\(){}|^$\[\]]")
"""Syntax of regular expressions, which is no wording."""


@dataclass(frozen=True)
class Measure:
    """A value, the most that it may be, and where it was found."""

    name: str
    value: float
    limit: float
    where: str = ""

    @property
    def holds(self) -> bool:
        """Whether the value is within its limit."""
        return self.value <= self.limit

    def __str__(self) -> str:
        mark = "ok  " if self.holds else "OVER"
        return f"{mark}  {self.name:<44}{self.value:>9,.6g}  of {self.limit:>7,.6g}  {self.where}".rstrip()


def docstrings(tree: ast.AST) -> Iterator[str]:
    """Docstrings of modules, classes and functions, and strings below an attribute or a constant."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.value


def literary_rate(trees: Iterable[ast.AST]) -> float:
    """Matches of `LITERARY` per 10,000 words of docstrings."""
    texts = [text for tree in trees for text in docstrings(tree)]
    words = sum(len(WORD.findall(text)) for text in texts)
    return 1e4 * sum(len(LITERARY.findall(text)) for text in texts) / max(1, words)


def functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Each function's name and number of lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def homonyms(trees: Mapping[str, ast.Module]) -> dict[str, list[str]]:
    """Names of public classes at the top of more than one file, with those files."""
    files = defaultdict(list)
    for file, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files[node.name].append(file)
    return {name: found for name, found in sorted(files.items()) if len(found) > 1}


def is_sentence(pattern: str) -> bool:
    """Whether a `match=` holds an error to a wording rather than to a name or a value."""
    literal = SYNTAX.sub("", pattern)
    words = [word for word in literal.split() if WORD.search(word)]
    return len(literal) > MATCH_CHARACTERS or len(words) > MATCH_WORDS


def sentence_matches(tree: ast.AST) -> Iterator[str]:
    """Constant arguments `match=` that are sentences."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "match":
            for part in ast.walk(node.value):
                if isinstance(part, ast.Constant) and isinstance(part.value, str) and is_sentence(part.value):
                    yield part.value


def parsed(folder: Path) -> dict[str, ast.Module]:
    """The modules of a folder by their path from the root of the project."""
    files = sorted(p for p in folder.rglob("*.py") if "__pycache__" not in p.parts)
    return {str(p.relative_to(ROOT)): ast.parse(p.read_text(encoding="utf-8")) for p in files}


def measures() -> list[Measure]:
    """Everything that `make structure` prints."""
    modules = parsed(SOURCE)
    lines = {file: (ROOT / file).read_text(encoding="utf-8").count("\n") for file in modules}
    longest_file = max(lines, key=lines.__getitem__)
    longest, length, home = max(
        ((name, length, file) for file, tree in modules.items() for name, length in functions(tree)),
        key=lambda found: found[1],
    )
    shared = homonyms(modules)
    sentences = [s for tree in parsed(ROOT / "tests").values() for s in sentence_matches(tree)]
    return [
        Measure("lines of src", sum(lines.values()), SOURCE_LINES),
        Measure("bytes of README.md", (ROOT / "README.md").stat().st_size, README_BYTES),
        Measure("literary words per 10,000 docstring words", literary_rate(modules.values()), LITERARY_WORDS),
        Measure("lines of the longest file", lines[longest_file], FILE_LINES, longest_file),
        Measure("lines of the longest function", length, FUNCTION_LINES, f"{longest} in {home}"),
        Measure("public class names in two or more files", len(shared), 0, ", ".join(shared)),
        Measure("errors that tests match by a sentence", len(sentences), 0),
    ]


def main() -> int:
    """Print every measure; 1 where a limit is broken."""
    found = measures()
    print(*found, sep="\n")
    return 0 if all(measure.holds for measure in found) else 1


if __name__ == "__main__":
    sys.exit(main())
