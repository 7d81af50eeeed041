"""The program in an answer.

Only lines are matched. A model's text is never parsed or compiled outside the sandbox, because deeply nested
text can crash CPython's compiler.
"""

from __future__ import annotations

import re

_FENCE = re.compile(r"[ \t]{0,3}(`{3,}|~{3,})[ \t]*([\w+#.-]{0,20})")
_OPENING = re.compile(
    r"(?:async[ \t]+def|def|class|import|from)[ \t]+\w|@\w|[A-Za-z_]\w{0,60}[ \t]*(?::[^=]{0,80})?=[^=]"
)
_PYTHON = {"", "python", "py", "python3", "py3"}


def program_in(answer: str, entry_point: str, prefix: str = "") -> str | None:
    """The program in an answer, or None if there is none.

    Of several fenced blocks it is the last that defines the function, else the last in Python. An unclosed
    block extends to the end. Without a fence it is the text from the first line that looks like code. The
    `prefix` is put before an answer that only continues the function, and does not define it itself.
    """
    blocks = _blocks(answer)
    if blocks:
        named = [text for text in blocks if defines(text, entry_point)]
        program = (named or blocks)[-1]
    else:
        lines = answer.split("\n")
        first = next((i for i, line in enumerate(lines) if _OPENING.match(line)), 0)
        continues = prefix and not defines(answer, entry_point)
        program = answer if continues else "\n".join(lines[first:])
    if not program.strip():
        return None
    if not prefix or defines(program, entry_point):
        return program
    if program[:1] not in (" ", "\t", "\n"):
        program = "\n".join("    " + line if line.strip() else line for line in program.split("\n"))
    return prefix + program


def defines(text: str, name: str) -> bool:
    """A line at the left margin defines or assigns this name."""
    quoted = re.escape(name)
    pattern = rf"^(?:(?:async[ \t]+)?def[ \t]+{quoted}[ \t]*\(|class[ \t]+{quoted}\b|{quoted}[ \t]*=[^=])"
    return re.search(pattern, text, re.MULTILINE) is not None


def _blocks(answer: str) -> list[str]:
    """The texts of fenced blocks in Python or without a language."""
    found, lines, fence, wanted = list[str](), list[str](), "", False
    for line in answer.split("\n"):
        match = _FENCE.match(line)
        if not fence and match:
            fence, wanted, lines = match[1], match[2].lower() in _PYTHON, []
        elif fence and match and match[1].startswith(fence) and not line.strip().strip(fence[0]):
            if wanted:
                found.append("\n".join(lines) + "\n")
            fence = ""
        elif fence:
            lines.append(line)
    if fence and wanted:
        found.append("\n".join(lines) + "\n")
    return found
