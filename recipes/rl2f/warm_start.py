"""Train the small model that the sweep starts from, out of the bundled one, and measure it.

    python recipes/rl2f/warm_start.py --out runs/rl2f/warm

The bundled model revises answers after fresh prompts; here it is trained on conversations (`dialogues.py`),
with the library's own engine and loss. Each fixed phrase of a hint becomes one token.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from dialogues import CAREFUL, Talk, talks  # noqa: E402
from warm_models import main  # noqa: E402

from didact.build.engines import tiny_model  # noqa: E402
from didact.engines.base import AdamParams, Loss  # noqa: E402
from didact.engines.local import LocalEngine  # noqa: E402
from didact.feedback.program import OUTCOME_ONLY  # noqa: E402
from didact.prompts import CRITIQUE_REQUEST  # noqa: E402
from didact.rendering.renderer import Renderer  # noqa: E402
from didact.rng import generator  # noqa: E402
from didact.types import Message, Row  # noqa: E402

WORDING = (
    " Characters ", " Character ", " is wrong.", " are wrong.", " is too low.", " are too low.",
    " is too high.", " are too high.", " and ", OUTCOME_ONLY,
)  # fmt: skip
STEPS, BATCH, LR = 1000, 16, 3e-3
ALL_CAREFUL = 0.7
"""Share of the steps with careful students only, in which the meaning of hints is learned."""
CRITICISED = 0.35
"""Share of dialogues in which one critique is trained on as well, with the request that runs use."""


def with_wording(engine: LocalEngine, wording: Sequence[str] = WORDING) -> LocalEngine:
    """The model with one more token per phrase, initialised as the mean of its bytes."""
    tokenizer, model = engine.tokenizer, engine.model
    pieces = [tokenizer.encode(phrase, add_special_tokens=False) for phrase in wording]
    tokenizer.add_tokens(list(wording))
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight
        for phrase, ids in zip(wording, pieces, strict=True):
            embedding[tokenizer.convert_tokens_to_ids(phrase)] = embedding[ids].mean(0)
    return LocalEngine(model, tokenizer)


def rows(found: Talk, renderer: Renderer, seed: int, index: int) -> list[tuple[list[int], list[bool]]]:
    """(token ids, loss mask): the student's side of a dialogue, and perhaps one critique."""
    rng = generator(seed, "criticised", index)
    asked = int(rng.integers(len(found.answers))) if rng.random() < CRITICISED else None
    ids = list(renderer.prompt((Message(role="user", content=found.question),)))
    learned = [False] * len(ids)
    made = []
    for h, (answer, critique) in enumerate(zip(found.answers, found.critiques, strict=True)):
        reply = renderer.answer(answer)
        ids, learned = [*ids, *reply], [*learned, *[True] * len(reply)]
        if h == asked and critique != OUTCOME_ONLY:
            request, reply = renderer.follow_up(CRITIQUE_REQUEST), renderer.answer(critique)
            whole = [*ids, *request, *reply]
            made.append((whole, [False] * (len(whole) - len(reply)) + [True] * len(reply)))
        if h + 1 < len(found.answers):
            new = renderer.follow_up(critique)
            ids, learned = [*ids, *new], [*learned, *[False] * len(new)]
    return [(ids, learned), *made]


def as_rows(made: Sequence[tuple[list[int], list[bool]]]) -> list[Row]:
    """Rows whose cross-entropy is a mean over the unmasked tokens."""
    total = sum(sum(learned) for _, learned in made)
    return [
        Row(
            np.asarray(ids[:-1]),
            np.asarray(ids[1:]),
            {"weights": np.asarray(learned[1:], dtype=np.float32) / total},
        )
        for ids, learned in made
    ]


def build(out: Path, seed: int, steps: int) -> dict[str, Any]:
    """Train and save the model; returns the report."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    started, spent = time.monotonic(), time.process_time()
    engine = with_wording(LocalEngine.from_pretrained(str(tiny_model()), device="cpu"))
    renderer = Renderer(engine.tokenizer, end_ids=engine.end_ids)
    for step in range(steps):
        careful = 1.0 if step < ALL_CAREFUL * steps else CAREFUL
        batch = talks(seed, step * BATCH, (step + 1) * BATCH, careful)
        made = [row for i, t in enumerate(batch) for row in rows(t, renderer, seed, step * BATCH + i)]
        loss = engine.forward_backward(as_rows(made), Loss("cross_entropy")).loss
        pace = min(1.0, (step + 1) / 20) * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
        engine.optim_step(AdamParams(lr=LR * pace))
        if (step + 1) % 50 == 0:
            seconds = time.process_time() - spent
            print(f"step {step + 1}/{steps}  loss {loss:.3f}  {seconds:.0f} s of CPU", flush=True)
    engine.save_pretrained(out)
    return {
        "seed": seed, "steps": steps, "minutes": round((time.monotonic() - started) / 60, 1),
        "cpu_minutes": round((time.process_time() - spent) / 60, 1), "torch": torch.__version__,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(__doc__, STEPS, build))
