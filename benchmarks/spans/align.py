"""Time to align critiques with 500-token answers: quotes → characters → signed tokens.

    python benchmarks/spans/align.py

10,000 critiques of four quotes each about as many answers of about 500 tokens. About 70 % of the quotes are
exact copies, 15 % differ in white space, case or quotation marks, 8 % have a typing mistake and 7 % occur
nowhere. Timed is everything that a training step does with a critique: `locate`, `token_offsets` of the
sampled ids, `token_labels` and the report. Prints JSON, with the time of each repeat: `wall_s`, `cpu_s` (CPU
time of the process, less steal time on a virtual machine), and `loop_ns`, one iteration of an empty loop
after it, to compare machines and hours of the day.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from dataclasses import asdict
from functools import cache
from typing import Any, NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from didact.spans import Quote, SpanReport, locate, token_labels, token_offsets

WORDS = """
the of a to in is that it was for on are as with they be at one have this from by word but what some we
can out other were all there when up use your how said an each she which do their time if will way about
many then them write would like so these her long make thing see him two has look more day could go come
did number sound no most people my over know water than call first who may down side been now find
“quoted” it’s naïve sum = + 17 42 3.5 (therefore) because, however; finally. derivative function return
value
"""
VOCABULARY = WORDS.split()


class Work(NamedTuple):
    """A critique's quotes and the answer."""

    quotes: list[Quote]
    ids: list[int]
    text: str


@cache
def tokenizer() -> Tokenizer:
    """A byte-level BPE of about one token a word, trained here."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [" ".join(VOCABULARY)] * 5,
        trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False),
    )
    return made


def critiques(n: int, seed: int = 0, words: int = 440) -> list[Work]:
    """n answers of a number of words, with the quotes about each."""
    draw = random.Random(seed)
    work = []
    for _ in range(n):
        chosen = draw.choices(VOCABULARY, k=words)
        text = " ".join(w + "\n" if i % 40 == 39 else w for i, w in enumerate(chosen))
        quotes = []
        for _ in range(4):
            at = draw.randrange(len(chosen) - 8)
            quote = " ".join(chosen[at : at + draw.randint(3, 8)])
            quotes.append(Quote(_spoilt(quote, draw), draw.choice(["good", "poor"])))
        ids = [*tokenizer().encode(text).ids, tokenizer().get_vocab_size() + 1]
        work.append(Work(quotes, ids, text))
    return work


def _spoilt(quote: str, draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.70:
        return quote
    if kind < 0.85:
        return quote.upper().replace(" ", "  ")
    if kind < 0.93:
        at = draw.randrange(1, len(quote))
        return quote[:at] + "q" + quote[at:]
    return quote[::-1]


def align(work: list[Work]) -> tuple[SpanReport, int]:
    """The work of a training step on critiques: the report, and the number of sampled ids."""
    total, tokens = SpanReport(), 0
    for quotes, ids, text in work:
        found = locate(quotes, text)
        labels = token_labels(found.spans, token_offsets(ids, tokenizer(), text), text, ended=True)
        total += SpanReport.of(found)
        tokens += len(labels)
    return total, tokens


def empty_loop(turns: int = 1_000_000) -> float:
    """Nanoseconds of CPU for one iteration of an empty loop."""
    before = time.process_time()
    for _ in range(turns):
        pass
    return (time.process_time() - before) / turns * 1e9


def main() -> None:
    """Time it and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    work = critiques(asked.n)
    align(work[:20])
    walls, had, loops = [], [], []
    for _ in range(asked.repeats):
        begun, begun_cpu = time.perf_counter(), time.process_time()
        report, tokens = align(work)
        walls.append(round(time.perf_counter() - begun, 2))
        had.append(round(time.process_time() - begun_cpu, 2))
        loops.append(round(empty_loop(), 1))
    shown: dict[str, Any] = {"critiques": asked.n, "wall_s": walls, "median_s": statistics.median(walls)}
    shown |= {"cpu_s": had, "median_cpu_s": statistics.median(had)}
    shown |= {"loop_ns": loops, "tokens_an_answer": round(tokens / asked.n)}
    print(json.dumps({**shown, **asdict(report)}))


if __name__ == "__main__":
    main()
