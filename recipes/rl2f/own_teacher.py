"""Train the small model to be a teacher as well: compare an answer with a solution, and write where and how
it is wrong.

    python recipes/rl2f/own_teacher.py --out runs/rl2f/teacher

Training goes on from the model of warm_start.py, on the same dialogues, so that it stays a student, and on
lessons: the prompt of a run's teacher (teacher.md) and the critique, place by place. Half of the dialogues
have such a teacher, half the program. The report holds the exact-match rate of its critiques on new answers.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from dialogues import CRITIC, Lesson, lessons, place_by_place, talks  # noqa: E402
from warm_models import main, rate  # noqa: E402
from warm_start import CAREFUL, as_rows, rows, with_wording  # noqa: E402

from didact.engines.base import AdamParams, Loss, SamplingParams  # noqa: E402
from didact.engines.local import LocalEngine  # noqa: E402
from didact.feedback.model_critic import TEACHER_SLOTS  # noqa: E402
from didact.prompts import read_prompt  # noqa: E402
from didact.rendering.renderer import Renderer  # noqa: E402
from didact.rollouts.base import completion_text  # noqa: E402
from didact.types import Ids, Message  # noqa: E402

START = Path("runs/rl2f/warm")
STEPS, DIALOGUES, LESSONS, LR = 1200, 5, 32, 3e-3
WORDING = (" is right.",)
ASKED = 500
"""Lessons in the final evaluation, none of which was trained on."""
PROMPT = read_prompt(HERE / "teacher.md", TEACHER_SLOTS)


def prompt(lesson: Lesson, renderer: Renderer) -> Ids:
    """The teacher's prompt, rendered as in a run."""
    text = PROMPT.fenced(reference=lesson.reference, answer=lesson.answer)
    return renderer.prompt((Message(role="user", content=text),))


def lesson_row(lesson: Lesson, renderer: Renderer) -> tuple[list[int], list[bool]]:
    """(token ids, loss mask)."""
    asked, reply = prompt(lesson, renderer), renderer.answer(lesson.critique)
    return [*asked, *reply], [False] * len(asked) + [True] * len(reply)


def exact(engine: LocalEngine, renderer: Renderer, seed: int, start: int) -> list[bool]:
    """Whether each greedy critique of a new answer equals the program's."""
    found = list(itertools.islice(lessons(seed, start, start + 2 * ASKED), ASKED))
    params = SamplingParams(max_tokens=64, temperature=0.0)
    drawn = engine.sample([prompt(lesson, renderer) for lesson in found], 1, params, seed=seed)
    replies = [completion_text(renderer, params, sample) for (sample,) in drawn]
    return [text.strip() == lesson.critique for text, lesson in zip(replies, found, strict=True)]


def build(out: Path, seed: int, steps: int) -> dict[str, Any]:
    """Train and save the model; returns the report."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    started = time.monotonic()
    engine = with_wording(LocalEngine.from_pretrained(str(START), device="cpu"), WORDING)
    renderer = Renderer(engine.tokenizer, end_ids=engine.end_ids)
    for step in range(steps):
        first = step * DIALOGUES
        critic = place_by_place if step % 2 else CRITIC.text
        made = [
            row
            for i, talk in enumerate(talks(seed + 1, first, first + DIALOGUES, CAREFUL, critic))
            for row in rows(talk, renderer, seed + 1, first + i)
        ]
        made += [
            lesson_row(lesson, renderer) for lesson in lessons(seed, step * LESSONS, (step + 1) * LESSONS)
        ]
        loss = engine.forward_backward(as_rows(made), Loss("cross_entropy")).loss
        pace = min(1.0, (step + 1) / 20) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))
        engine.optim_step(AdamParams(lr=LR * pace))
        if (step + 1) % 50 == 0:
            minutes = (time.monotonic() - started) / 60
            print(f"step {step + 1}/{steps}  loss {loss:.3f}  {minutes:.1f} min", flush=True)
    engine.save_pretrained(out)
    return {
        "seed": seed, "steps": steps, "start": str(START), "torch": torch.__version__,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "says_what_it_should": rate(exact(engine, renderer, seed, steps * LESSONS)),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(__doc__, STEPS, build))
