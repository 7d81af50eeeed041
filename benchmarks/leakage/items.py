"""Questions, references and wrong answers: one pool for tuning and another for the reported figure."""

from __future__ import annotations

from typing import NamedTuple


class Item(NamedTuple):
    """A problem with a student's wrong answer."""

    domain: str
    question: str
    reference: str
    answer: str


WORDS = {
    "dev": [
        ("The river that runs through Cairo", "Nile", "Congo"),
        ("What gas do plants take in from the air?", "carbon dioxide", "oxygen"),
        ("Spell this word backward: drawer", "reward", "rewad"),
        ("Unscramble: LPAEP", "apple", "palep"),
        ("Opposite of transparent", "opaque", "clear"),
        ("Which organ pumps blood?", "heart", "lungs"),
        ("Which metal is liquid at room temperature?", "mercury", "gallium"),
        ("Spell this word backward: stressed", "desserts", "dessert"),
        ("A group of lions is called a", "pride", "pack"),
        ("Which planet has the most moons?", "Saturn", "Jupiter"),
        ("What is the past tense of seek?", "sought", "seeked"),
        ("Name the largest organ of the human body.", "skin", "liver"),
    ],
    "test": [
        ("What do bees make?", "honey", "wax paper"),
        ("Spell this word backward: lamina", "animal", "anmial"),
        ("Unscramble: TCOPUMER", "computer", "compoter"),
        ("What is frozen water called?", "ice", "snow"),
        ("Which instrument has 88 keys?", "piano", "organ"),
        ("A baby goose is called a", "gosling", "duckling"),
        ("Which vitamin-rich orange root is good for rabbits?", "carrot", "turnip"),
        ("Capital of Australia?", "Canberra", "Sydney"),
        ("Decode (shift by 1): tfdsfu", "secret", "sacred"),
        ("What is the chemical name of table salt?", "sodium chloride", "potassium iodide"),
        ("What is the plural of ox?", "oxen", "oxes"),
        ("Which language is spoken in Brazil?", "Portuguese", "Spanish"),
        ("Spell this word backward: golf", "flog", "folg"),
    ],
}
NAMES = {
    "dev": [
        ("Who painted the Mona Lisa?", "Leonardo da Vinci", "Michelangelo Buonarroti"),
        ("Who wrote Pride and Prejudice?", "Jane Austen", "Emily Dickinson"),
        ("Who first walked on the moon?", "Neil Armstrong", "Buzz Aldrin"),
        ("Which lake is the deepest on earth?", "Lake Baikal", "Lake Superior"),
        ("Who discovered radium?", "Marie Curie", "Lise Meitner"),
        ("Who composed The Four Seasons?", "Antonio Vivaldi", "Johann Pachelbel"),
    ],
    "test": [
        ("Who formulated the laws of motion?", "Isaac Newton", "Albert Einstein"),
        ("Who was the first woman to fly solo across the Atlantic?", "Amelia Earhart", "Bessie Coleman"),
        ("Which peak is the highest in Africa?", "Mount Kilimanjaro", "Mount Kenya"),
        ("Who wrote One Hundred Years of Solitude?", "Gabriel García Márquez", "Pablo Neruda"),
        ("Who invented the World Wide Web?", "Tim Berners-Lee", "Vint Cerf"),
        ("Who founded Microsoft together with Bill Gates?", "Paul Allen", "Steve Wozniak"),
        ("Who proposed the heliocentric model?", "Nicolaus Copernicus", "Tycho Brahe"),
    ],
}
PHRASES = {
    "dev": [
        (
            "Translate: Der frühe Vogel fängt den Wurm.",
            "The early bird catches the worm",
            "The early bird is catching a snake",
        ),
        (
            "Why is the sky blue?",
            "Rayleigh scattering of short wavelengths by air molecules",
            "The sea is reflected",
        ),
        (
            "Sort the words: pear, fig, plum, lime, kiwi, date",
            "date, fig, kiwi, lime, pear, plum",
            "date, kiwi, fig, lime, plum, pear",
        ),
        (
            "Name the four chambers of the heart.",
            "left atrium, right atrium, left ventricle, right ventricle",
            "a, b",
        ),
        ("What are the states of matter?", "solid, liquid, gas, plasma", "hard, soft"),
        (
            "Summarise: the museum moves its opening because of flood damage.",
            "The museum postpones its opening until spring after flood damage in the basement",
            "The museum is closed forever",
        ),
    ],
    "test": [
        (
            "Translate: Wer im Glashaus sitzt, soll nicht mit Steinen werfen.",
            "People who live in glass houses should not throw stones",
            "Those in a glasshouse throw no rocks at people",
        ),
        (
            "What did Lincoln call democracy at Gettysburg?",
            "government of the people, by the people, for the people",
            "a rule made by all men",
        ),
        (
            "Name the noble gases of the first five periods.",
            "helium, neon, argon, krypton, xenon",
            "oxygen, nitrogen",
        ),
        (
            "What keeps the planets in orbit?",
            "The gravitational pull of the sun balances their forward motion",
            "Magnetism of the sun holds them",
        ),
        (
            "Which bones make up the leg?",
            "femur, patella, tibia and fibula",
            "humerus, radius, ulna",
        ),
        (
            "Give the headline for the report on the strike.",
            "Rail workers end nine-day strike after overnight pay deal",
            "Trains will stop for longer",
        ),
        (
            "State the second law of thermodynamics in a sentence.",
            "The entropy of an isolated system never decreases over time",
            "Energy is always conserved",
        ),
    ],
}
CODE = {
    "dev": [
        (
            "Write a function that returns the largest of a list.",
            "def largest(xs):\n    best = xs[0]\n    for x in xs[1:]:\n        if x > best:\n"
            "            best = x\n    return best",
            "def largest(xs):\n    return xs[0]",
        ),
        (
            "Count vowels in a string.",
            "def vowels(s):\n    return sum(c in 'aeiou' for c in s.lower())",
            "def vowels(s):\n    return len(s)",
        ),
        (
            "SQL: names of customers older than 30",
            "SELECT name FROM customers WHERE age > 30",
            "SELECT * FROM people",
        ),
    ],
    "test": [
        (
            "Write fib(n).",
            "def fib(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a",
            "def fib(n):\n    if n < 2: return 1\n    return fib(n) + fib(n - 1)",
        ),
        (
            "Write a Python function that tells whether a string is a palindrome.",
            "def is_palindrome(s):\n    cleaned = [c for c in s.lower() if c.isalnum()]\n"
            "    return cleaned == cleaned[::-1]",
            "def is_palindrome(s):\n    return s[0] == s[-1]",
        ),
        (
            "SQL: number of orders per customer, largest first",
            "SELECT customer_id, COUNT(*) FROM orders GROUP BY customer_id ORDER BY COUNT(*) DESC",
            "SELECT * FROM orders",
        ),
        ("Shell: delete all .tmp files below this folder", "find . -name '*.tmp' -delete", "rm *.tmp"),
    ],
}
DATES = {
    "dev": [
        ("When did the Berlin Wall fall?", "9 November 1989", "3 October 1990"),
        ("When was the moon landing?", "July 20, 1969", "July 4, 1970"),
        ("When was Albert Einstein born?", "14 March 1879", "18 April 1955"),
    ],
    "test": [
        ("When was the Magna Carta sealed?", "15 June 1215", "14 October 1066"),
        ("When did the Titanic sink?", "April 15, 1912", "May 7, 1915"),
        ("When was the storming of the Bastille?", "14 July 1789", "21 January 1793"),
        ("On which date was Nelson Mandela released?", "1990-02-11", "1994-05-10"),
    ],
}
CHOICES = {
    "dev": [
        ("Which is a mammal?\nA) trout\nB) bat\nC) eagle\nD) frog", "B", "C"),
        ("2, 4, 8, ?\nA) 10\nB) 12\nC) 16\nD) 20", "C", "A"),
        ("Largest ocean?\nA) Atlantic\nB) Indian\nC) Arctic\nD) Pacific", "D", "A"),
        ("Which is prime?\nA) 21\nB) 27\nC) 33\nD) 31", "D", "B"),
    ],
    "test": [
        ("Where does photosynthesis happen?\nA. nucleus\nB. chloroplast\nC. ribosome\nD. vacuole", "B", "A"),
        ("Pick the synonym of brisk. (A) slow (B) heavy (C) quick (D) dull", "C", "D"),
        ("Which planet is closest to the sun?\nA) Mercury\nB) Venus\nC) Earth\nD) Mars", "A", "B"),
        ("Which gate outputs 1 only if both inputs are 1?\nA) OR\nB) XOR\nC) NAND\nD) AND", "D", "C"),
        (
            "If all X are Y and some Y are Z, then\n(A) all X are Z\n(B) no X is Z\n(C) nothing follows",
            "C",
            "A",
        ),
    ],
}
EQUATIONS = {
    "dev": [
        ("Line through (0, 2) and (1, 5)?", "y = 3x + 2", "y = 2x + 5"),
        ("Derivative of x^3 - 4x?", "3x^2 - 4", "3x^2 + 4x"),
        ("Factor x^2 - 9.", "(x - 3)(x + 3)", "(x - 9)(x + 1)"),
    ],
    "test": [
        ("Line through (0, -4) with slope one half?", "y = x/2 - 4", "y = 2x - 1"),
        ("Antiderivative of 6x^2 + 2?", "2x^3 + 2x + C", "12x"),
        ("Solve v = u + at for a.", "a = (v - u)/t", "a = vt - u"),
        ("Expand (x + 5)(x - 2).", "x^2 + 3x - 10", "x^2 - 10x"),
        ("Circle of radius 3 about the origin?", "x^2 + y^2 = 9", "x + y = 3"),
    ],
}
FRACTIONS = {
    "dev": [
        ("Chance that a fair die shows more than 2?", "2/3", "1/2"),
        ("What is 3 divided by 8 as a decimal?", "0.375", "0.38"),
        ("What share of 20 is 15?", "75%", "15%"),
        ("Area of a circle of radius 1, to 5 places?", "3.14159", "6.28"),
    ],
    "test": [
        ("Probability of at least one head in two tosses?", "3/4", "1/3"),
        ("Write 5/8 as a decimal.", "0.625", "0.58"),
        ("By what percentage did the price fall from 80 to 60?", "25%", "20%"),
        ("What is 1/3 + 1/2?", "5/6", "2/5"),
        ("Square root of 2 to four places?", "1.4142", "1.5"),
        ("What is 12.5% of 10, as a decimal?", "1.25", "12.5"),
    ],
}
TEXTUAL = {
    "word": WORDS,
    "name": NAMES,
    "phrase": PHRASES,
    "code": CODE,
    "date": DATES,
    "choice": CHOICES,
    "equation": EQUATIONS,
    "fraction": FRACTIONS,
}


def items(half: str) -> list[Item]:
    """Every textual item of a half; numbers are drawn in `build.py`."""
    return [
        Item(domain, question, reference, answer)
        for domain, pools in TEXTUAL.items()
        for question, reference, answer in pools[half]
    ]
