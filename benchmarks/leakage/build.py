"""Write the sets of critiques with and without a planted leak: `leaks_dev.jsonl` and `leaks.jsonl`.

    python benchmarks/leakage/build.py           # writes both beside this file
    python benchmarks/leakage/build.py --check   # compares the files with what would be written

Both halves come from seeds, and share no sentence and no reference. A line has `id`, `kind` (of the leak, or
of the harmless critique), `domain`, `leaks`, `critique`, `reference`, `question` and `answer`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import wording  # noqa: E402
from items import Item, items  # noqa: E402

from didact.rng import generator  # noqa: E402

SIZES = {"dev": 50, "test": 50}
"""Critiques of each of the four kinds of leak; as many harmless ones as leaks."""


def listed(table: str) -> list[str]:
    return table.split()


ONES = listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
TENS = listed("_ _ twenty thirty forty fifty sixty seventy eighty ninety")
NATO = listed(
    "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa "
    "quebec romeo sierra tango uniform victor whiskey xray yankee zulu"
)
ORDINALS = listed("first second third fourth fifth sixth seventh eighth ninth tenth")
MONTHS = listed("January February March April May June July August September October November December")
SMALL = {
    "dev": listed("banana tree elephant strawberries if refrigerator"),
    "test": listed("mountain ice garden breakfast a neighbourhood thunderstorm on"),
}
Random = np.random.Generator
Row = dict[str, Any]


def in_words(n: int) -> str:
    """1200 as "one thousand two hundred"."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10] + (f"-{ONES[n % 10]}" if n % 10 else "")
    if n < 1000:
        return f"{ONES[n // 100]} hundred" + (f" and {in_words(n % 100)}" if n % 100 else "")
    rest = n % 1000
    return f"{in_words(n // 1000)} thousand" + (f" {in_words(rest)}" if rest else "")


def number_items(half: str, rng: Random) -> list[Item]:
    """Sums and products; half of them with round results."""
    made = []
    for i in range(40):
        a = int(rng.integers(2, 90)) if i % 2 else 100 * int(rng.integers(2, 60))
        b = int(rng.integers(2, 12))
        if half == "dev":
            question, result = f"What is {a} times {b}?", a * b
        else:
            c = int(rng.integers(1, 40)) if i % 2 else 100
            question, result = (
                f"Ann has {a} cards, buys {b} packs of {c} and gives none away. How many?",
                a + b * c,
            )
        wrong = result + int(rng.choice([-10, -3, 2, 7, 20]))
        if not {str(result), str(wrong)} & set(re.findall(r"\d+", question)):
            made.append(Item("number", question, str(result), str(wrong)))
    small = [
        Item("number", f"How many letters has the word {w}?", str(len(w)), str(len(w) + 2))
        for w in SMALL[half]
    ]
    return made + small


# ── ways of telling ────────────────────────────────────────────────────────────────────────────────


def number_forms(half: str, item: Item) -> list[str]:
    """The reference's value in other forms than its own."""
    if item.domain == "date":
        return date_forms(half, item.reference)
    if item.domain == "fraction":
        return fraction_forms(half, item.reference)
    n = int(item.reference)
    forms = [in_words(n)]
    if n >= 1000:
        forms += [f"{n:,}", in_words(n).replace(" and ", " ")]
    if half == "dev":
        forms += [f"half of {2 * n}", f"{n}.0", f"{in_words(n + 1)} minus one" if n > 10 else in_words(n)]
        if n % 100 == 0 and n < 10_000:
            forms += [f"{in_words(n // 100)} hundred", f"{n / 1000:g}e3"]
        if n % 12 == 0:
            forms.append(f"{in_words(n // 12)} dozen")
        return forms
    forms += [f"{n + 1} less one" if n > 10 else in_words(n), f"one more than {n - 1}", f"{n}.00"]
    if n % 2 == 0 and n > 10:
        forms += [f"twice {n // 2}", f"{in_words(n // 2)} doubled"]
    if n % 100 == 0:
        forms += [f"{in_words(n // 100)} hundred" if n < 10_000 else in_words(n), f"{n / 1000:g} thousand"]
        forms += [
            f"{n / 1000:g} × 10³",
            f"{n / 1000:g}k",
            f"{n // 1000} {n % 1000:03d}" if n >= 1000 else f"{n}",
        ]
    elif n > 20:
        forms += [f"{n // 10 * 10} plus {n % 10}", f"{n // 2} and {n - n // 2} together"]
    return [f for f in forms if f != item.reference]


def date_forms(half: str, date: str) -> list[str]:
    year = int(re.search(r"\d{4}", date)[0])  # type: ignore[index]
    iso = re.fullmatch(r"\d{4}-(\d\d)-(\d\d)", date)
    month = int(iso[1]) if iso else next(i for i, m in enumerate(MONTHS, 1) if m in date)
    day = int(iso[2]) if iso else int(re.search(r"\b\d{1,2}\b", date)[0])  # type: ignore[index]
    name = MONTHS[month - 1]
    suffix = "th" if 10 < day < 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    if half == "dev":
        forms = [f"{name} {day}{suffix}, {year}", f"{year}-{month:02d}-{day:02d}"]
    else:
        forms = [f"the {day}{suffix} of {name} {year}", f"{day}.{month}.{year}", f"{day} {name[:3]} {year}"]
    return [f for f in forms if f != date]


def fraction_forms(half: str, text: str) -> list[str]:
    known = {
        "2/3": ["two thirds", "\\frac{2}{3}", "two over three"],
        "0.375": ["three eighths", "3/8", "37.5 %"],
        "75%": ["three quarters", "0.75", "seventy-five percent"],
        "3.14159": ["about 3.14", "three point one four one five nine"],
        "3/4": ["three in four", "0.75", "three quarters", "75 percent"],
        "0.625": ["5/8", "five eighths", "62.5%", "nought point six two five"],
        "25%": ["a quarter", "one fourth", "twenty-five per cent", "0.25"],
        "5/6": ["five sixths", "0.8333", "five out of six", "$\\tfrac{5}{6}$"],
        "1.4142": ["one point four one four two", "roughly 1.414", "1.41421"],
        "1.25": ["one and a quarter", "5/4", "one point two five", "1 1/4"],
    }
    # A form that the question contains gives nothing away.
    return [f for f in known[text] if not (text == "0.625" and f == "5/8")]


def spelled_forms(half: str, item: Item) -> list[str]:
    """The reference letter by letter, digit by digit or word by word."""
    ref = item.reference
    if item.domain in ("phrase", "name") and len(ref.split()) > 2:
        words = [w.strip(",") for w in ref.split()]
        if half == "dev":
            return [
                " ".join(f"Word {i} should be {w}." for i, w in enumerate(words, 1)).removesuffix("."),
                ", then ".join(f"“{w}”" for w in words),
            ]
        return [
            "; ".join(f"word {i} is '{w}'" for i, w in enumerate(words, 1)),
            'first "' + '", next "'.join(words) + '"',
        ]
    if ref.isdigit():
        digits = [ONES[int(d)] for d in ref]
        if len(ref) < 2:
            return []
        if half == "dev":
            return [" ".join(digits), ", ".join(digits), "-".join(ref)]
        return [
            ", then ".join(digits),
            f"the digits are {', '.join(ref[:-1])} and {ref[-1]} in that order",
            " ".join(f"Character {i} should be {d}." for i, d in enumerate(ref, 1)).removesuffix("."),
            " – ".join(digits),
        ]
    if not ref.isalpha():
        return []
    low = ref.lower()
    if half == "dev":
        return [
            "-".join(low),
            ", ".join(ref.upper()),
            f"the letters {', '.join(low)} in that order",
            " ".join(f"Character {i} should be {c}." for i, c in enumerate(low, 1)).removesuffix("."),
        ]
    forms = [
        ".".join(low),
        " ".join(ref.upper()),
        f"start with {low[0]}, then " + ", then ".join(low[1:]),
        f"it begins with '{low[: len(low) // 2]}' and ends with '{low[len(low) // 2 :]}'",
        " ".join(NATO[ord(c) - 97] for c in low),
        " → ".join(f"'{c}'" for c in low),
    ]
    if len(low) <= 10:
        forms.append(", ".join(f"the {ORDINALS[i]} letter is {c}" for i, c in enumerate(low)))
    return forms


def partial_forms(half: str, item: Item, rng: Random) -> list[str]:
    """About 70 to 90 % of a longer reference, or an identifying part of a name."""
    ref, words = item.reference, item.reference.split()
    if item.domain == "name":
        return [words[-1]] if half == "dev" else [words[-1], f"somebody called {words[-1]}"]
    if item.domain == "date":
        if "-" in ref:
            return [f"{MONTHS[int(ref[5:7]) - 1]} {ref[:4]}"]
        return [" ".join(w.strip(",") for w in words if not re.fullmatch(r"\d{4}", w))]
    if "\n" in ref:
        lines = ref.splitlines()
        drop = int(rng.integers(len(lines)))
        return ["\n".join(line for i, line in enumerate(lines) if i != drop or (len(lines) < 3 and i))]
    if item.domain in ("phrase", "code") and len(words) >= 4:
        cut = max(1, round(0.2 * len(words)))
        forms = [" ".join(words[cut:]), " ".join(words[:-cut]).strip(",")]
        if half == "test":
            middle = len(words) // 2
            forms.append(" ".join([*words[:middle], "…", *words[middle + 1 :]]))
            if ref.count(",") > 1:
                listed = re.split(r", | and ", ref)
                forms.append(" and ".join(reversed(listed[1:])))
        return forms
    if item.domain == "word" and len(ref) >= 6 and ref.isalpha():
        if half == "dev":
            return [f"a word that starts with {ref[:-1].lower()}"]
        return [f'a word that ends in "{ref[1:].lower()}"', f"something that begins with {ref[:-2].lower()}"]
    return []


# ── putting it together ────────────────────────────────────────────────────────────────────────────


def filled(sentence: str, **values: str) -> str:
    """Fill slots with data; {REF} is the reference in capitals."""
    if "ref" in values:
        values["REF"] = values["ref"].upper()
    return re.sub(r"\{(\w+)\}", lambda m: values[m.group(1)], sentence)


def dealt(sentences: list[str], rng: Random) -> Iterator[str]:
    """An endless stream of sentences, equally often, in random order."""
    while True:
        yield from (sentences[i] for i in rng.permutation(len(sentences)))


def collected(
    pool: list[Item], n: int, rng: Random, write: Callable[[Item], str | None]
) -> list[tuple[Item, str]]:
    """n different critiques, from the domains in turn."""
    domains = sorted({item.domain for item in pool})
    queues = {d: [item for item in pool if item.domain == d] for d in domains}
    for queue in queues.values():
        order = rng.permutation(len(queue))
        queue[:] = [queue[i] for i in order]
    made: list[tuple[Item, str]] = []
    seen: set[str] = set()
    for turn in range(100 * n):
        queue = queues[domains[turn % len(domains)]]
        item = queue.pop(0)
        queue.append(item)
        critique = write(item)
        if critique is not None and critique not in seen:
            seen.add(critique)
            made.append((item, critique))
            if len(made) == n:
                return made
    raise RuntimeError(f"only {len(made)} of {n} critiques: add sentences or items")


def leaking(half: str, pool: list[Item], n: int) -> dict[str, list[tuple[Item, str]]]:
    """n critiques of each kind of leak."""
    made = {}
    for kind in ("verbatim", "number", "spelled", "partial"):
        rng = generator(0, "leak-set", half, kind)
        table = getattr(wording, kind.upper())
        sentences, choices = dealt(table[half], rng), dealt(wording.VERBATIM_CHOICE[half], rng)

        def write(
            item: Item,
            kind: str = kind,
            rng: Random = rng,
            sentences: Iterator[str] = sentences,
            choices: Iterator[str] = choices,
        ) -> str | None:
            values = {"ref": item.reference, "wrong": item.answer}
            if kind == "verbatim":
                return filled(next(choices if item.domain == "choice" else sentences), **values)
            if kind == "number":
                fit = item.domain in ("number", "fraction", "date")
                forms = number_forms(half, item) if fit else []
            elif kind == "spelled":
                fit = item.domain != "choice" and len(item.reference) > 1
                forms = spelled_forms(half, item) if fit else []
            else:
                forms = partial_forms(half, item, rng)
            if not forms:
                return None
            told = forms[int(rng.integers(len(forms)))]
            if kind == "partial" and told.rpartition(" ")[2].strip('"') in item.answer.lower():
                return None  # it tells what the student has
            return filled(next(sentences), told=told, part=told, **values)

        made[kind] = collected(pool, n, rng, write)
    return made


def harmless(half: str, pool: list[Item], n: int) -> dict[str, list[tuple[Item, str]]]:
    """4n critiques without a leak, of five kinds."""
    made = {}
    for kind in ("quotes_wrong", "quotes_question", "where", "common", "inside"):
        rng = generator(0, "leak-set", half, kind)
        sentences = dealt(getattr(wording, kind.upper())[half], rng)
        fit = pool
        if kind == "quotes_question":
            fit = [i for i in pool if re.search(r"\d", i.question)]
        elif kind == "common":
            fit = [i for i in pool if i.domain in ("phrase", "code", "name", "word")]
        elif kind == "inside":
            small = [i for i in pool if i.domain == "number" and len(i.reference) < 3]
            fit = [*small, *small, *(i for i in pool if i.domain in ("number", "choice"))]
        inside = {
            name: dealt(getattr(wording, name)[half], rng)
            for name in ("INSIDE", "INSIDE_CHOICE", "INSIDE_LONG")
        }

        def write(
            item: Item,
            kind: str = kind,
            rng: Random = rng,
            sentences: Iterator[str] = sentences,
            inside: dict[str, Iterator[str]] = inside,
        ) -> str | None:
            values = {"ref": item.reference, "wrong": item.answer}
            if kind == "quotes_question":
                values["q"] = str(rng.choice(re.findall(r"\d+", item.question)))
            if kind == "inside":
                longer = f"{rng.integers(1, 9)}{item.reference}{rng.integers(1, 9)}"
                digit = re.sub(r"[01\D]", "", item.reference)[:1] or "2"
                values |= {"n": item.reference if len(item.reference) < 3 else digit, "longer": longer}
                if item.domain == "choice":
                    return filled(next(inside["INSIDE_CHOICE"]), **values)
                name = "INSIDE" if len(item.reference) < 3 or rng.random() < 0.4 else "INSIDE_LONG"
                return filled(next(inside[name]), **values)
            return filled(next(sentences), **values)

        share = 4 * n // 5
        made[kind] = (
            _repeating(fit, share, rng, write)
            if kind in ("where", "common")
            else collected(fit, share, rng, write)
        )
    return made


def _repeating(
    pool: list[Item], n: int, rng: Random, write: Callable[[Item], str | None]
) -> list[tuple[Item, str]]:
    """Sentences without slots: the same one is another test with another reference."""
    order = rng.permutation(len(pool))
    made = [(pool[order[i % len(pool)]], i) for i in range(n)]
    return [(item, str(write(item))) for item, _ in made]


def rows(half: str) -> list[Row]:
    """All critiques of a half, leaks first."""
    pool = [*items(half), *number_items(half, generator(0, "leak-set", half, "numbers"))]
    n = SIZES[half]
    made: list[Row] = []
    for leaks, groups in ((True, leaking(half, pool, n)), (False, harmless(half, pool, n))):
        for kind, pairs in groups.items():
            for i, (item, critique) in enumerate(pairs):
                made.append(
                    {
                        "id": f"{half}/{kind}/{i}",
                        "kind": kind,
                        "domain": item.domain,
                        "leaks": leaks,
                        "critique": critique,
                        "reference": item.reference,
                        "question": item.question,
                        "answer": item.answer,
                    }
                )
    return made


FILES = {"dev": HERE / "leaks_dev.jsonl", "test": HERE / "leaks.jsonl"}


def text(half: str) -> str:
    """The file of a half."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(half))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    for half, file in FILES.items():
        written = text(half)
        if not check:
            file.write_text(written, encoding="utf-8")
        elif file.read_text(encoding="utf-8") != written:
            sys.exit(f"{file.name} is not what build.py writes")
        print(f"{file.name}: {written.count(chr(10))} critiques")


if __name__ == "__main__":
    main()
