"""Word tables of the leak meter: number words, and words that give nothing away by themselves."""

from __future__ import annotations

from fractions import Fraction


def _words(table: str) -> list[str]:
    return table.split()


def _numbered(table: str, first: int) -> dict[str, int]:
    """Words with their numbers, counted from `first`."""
    return {word: number for number, word in enumerate(table.split(), first)}


UNITS = _numbered(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen",
    0,
)
TENS = {w: 10 * i for w, i in _numbered("twenty thirty forty fifty sixty seventy eighty ninety", 2).items()}
SCALES = {
    "thousand": 10**3,
    "grand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "k": 10**3,
    "bn": 10**9,
}
_PARTS = _numbered("half third quarter fifth sixth seventh eighth ninth tenth eleventh twelfth", 2)
PARTS = {
    **_PARTS,
    **{f"{w}s": i for w, i in _PARTS.items()},
    "halves": 2,
    "fourth": 4,
    "fourths": 4,
    "hundredth": 100,
    "hundredths": 100,
    "thousandth": 1000,
    "thousandths": 1000,
}
"""Denominators, and `half` with them."""
TIMES = {
    "half": Fraction(1, 2),
    "quarter": Fraction(1, 4),
    "twice": Fraction(2),
    "double": Fraction(2),
    "triple": Fraction(3),
    "thrice": Fraction(3),
}
JOIN_NUMBERS = frozenset(_words("a an and of the over less more than by per short point fewer"))
"""Words that belong to a number only beside one."""
NUMBER_WORDS = frozenset(
    (
        *UNITS,
        *TENS,
        *SCALES,
        *PARTS,
        *TIMES,
        *JOIN_NUMBERS,
        *_words(
            "hundred hundreds thousands millions dozen dozens minus negative percent cent oh plus times "
            "multiplied doubled tripled"
        ),
    )
)

ORDINALS = _numbered(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth",
    1,
)
MONTHS = _numbered("january february march april may june july august september october november december", 1)
NATO = {
    w: w[0]
    for w in _words(
        "alpha alfa bravo charlie delta echo foxtrot golf hotel india juliet juliett kilo lima mike november "
        "oscar papa quebec romeo sierra tango uniform victor whiskey xray yankee zulu"
    )
}
DIGITS = {**{w: str(i) for w, i in UNITS.items() if i < 10}, "oh": "0", "nought": "0"}
BETWEEN = frozenset(
    _words(
        "and then followed by next finally lastly last comma dash hyphen space again another plus ending "
        "with after that it comes an the letter letters digit digits first second third character characters"
    )
)
"""Words between letters that are spelled out."""

COMMON = frozenset(
    _words(
        "yes no not true false right wrong none all both some any left more less same other new old first "
        "second third last next many few most least only even odd positive negative zero one two high low up "
        "down yet now then here there before after above below good bad answer question solution step word "
        "letter number line result value error mistake point part reason case time way work order end start "
        "begin use make this that these those with from into have has had will would should could can may "
        "must what when where which who why how you your they it its is are was were be been and or but for "
        "so if than too very also just still again always never"
    )
)
"""Words that any critique may hold."""
FUNCTION = frozenset(
    _words(
        "a an the of in on at to for from with by as is are was were be been it its this that these those "
        "and or but not no so if then than too you your he she they them his her their we i me my do does "
        "did has have had will would can could should may might must there here which who what when where "
        "how also only more most some any all both"
    )
)
"""Words without meaning of their own: an n-gram needs another one."""
PARTICLES = frozenset(_words("da de di do du del della der den la le van von bin ibn al el ter"))
"""Small words inside a name."""
GENERIC = frozenset(
    _words(
        "ocean river sea lake mount mountain island islands city war street road state states republic "
        "kingdom empire university college bridge tower bay gulf strait party act union company king queen "
        "president sir dr mr mrs ms saint st san jr sr ii iii iv vi theorem law theory effect principle "
        "equation method treaty battle north south east west new old great upper lower"
    )
)
"""Words of names that many names share."""
