"""What a task's text shows of how hard it is: its wording, and a few numbers. Pure, bounded, the same everywhere."""

import math
import re

from app.domain.record import record

HEAD_CHARS = 4_000
"""What is read of a long text: its beginning and its end. Its length counts in full."""
TAIL_CHARS = 1_000
GRAM_LENGTH = 3

NAMES = (
    "length",
    "numbers",
    "vocabulary",
    "word length",
    "punctuation",
    "repetition",
    "formulas",
    "negations",
)
"""What `Features.numbers` count. Neither lines nor question marks: they tell one exam from
another, and nothing of a task."""

_TOKEN = re.compile(r"[^\W\d_]+|\d+|[^\w\s]")
_ANSWER_CUE = re.compile(r"\n\s*answer:\s*$", re.IGNORECASE)
_CHOICE = re.compile(r"\n[A-Da-d][.)] ")
_NEGATIONS = frozenset({"not", "except", "no", "least", "most", "without"})


@record(frozen=True, slots=True)
class Features:
    """A text as the scorer sees it."""

    grams: frozenset[str]
    """Its words, pairs and triples of words, lower case; every number is `#`."""
    numbers: tuple[float, ...]
    """One for each of `NAMES`, not yet put to scale."""


def features_of(text: str) -> Features:
    """The features of a text. What only exams have, such as the letters of choices, is left out."""
    read = _CHOICE.sub("\n", _ANSWER_CUE.sub("", shortened(text)))
    tokens = ["#" if token.isdigit() else token for token in _TOKEN.findall(read.lower())]
    grams = set(tokens)
    for length in range(2, GRAM_LENGTH + 1):
        grams.update(map(" ".join, zip(*(tokens[n:] for n in range(length)), strict=False)))
    return Features(frozenset(grams), _numbers(text, read, tokens))


def _numbers(text: str, read: str, tokens: list[str]) -> tuple[float, ...]:
    count = max(len(tokens), 1)
    different = len(set(tokens))
    marks = sum(1 for word in tokens if not word[0].isalnum() and word != "#")
    return (
        math.log1p(len(text)),
        math.log1p(tokens.count("#")),
        math.log1p(different),
        sum(map(len, tokens)) / count,
        math.log1p(marks),
        1 - different / count,
        math.log1p(read.count("$") + read.count("\\")),
        math.log1p(sum(1 for token in tokens if token in _NEGATIONS)),
    )


def shortened(text: str) -> str:
    """What is read of a text."""
    if len(text) <= HEAD_CHARS + TAIL_CHARS:
        return text
    return f"{text[:HEAD_CHARS]}\n{text[-TAIL_CHARS:]}"
