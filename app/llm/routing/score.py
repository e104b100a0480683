"""How hard a text looks, from 0 to 1: learned weights on its wording and its numbers. Pure.

The score is a rank: 0.8 means harder than 80 % of the questions the weights were learned from, hard in the
sense that a strong model answers what a weak one does not. How they are made: `training`, docs/routing.md.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self

from app.domain.record import record
from app.llm.routing.features import NAMES, Features

WEIGHTS_PATH = Path(__file__).with_name("weights.json")
SCALE_LIMIT = 2.5
"""A number counts as at most so many standard deviations: nothing learned speaks of more."""
UNIT = 10_000
"""Weights are kept as whole numbers of ten-thousandths."""


@record(frozen=True, slots=True)
class Term:
    """What one feature adds to the score before it is ranked."""

    name: str
    value: float


@record(frozen=True, slots=True)
class Weights:
    """What was learned. Whole numbers, so that the file is the same wherever it is made."""

    means: tuple[int, ...]
    deviations: tuple[int, ...]
    numbers: tuple[int, ...]
    """The weight of each of `NAMES`, per standard deviation."""
    grams: Mapping[str, int]
    ranks: tuple[int, ...]
    """The raw scores that 0 %, 5 %, …, 100 % of unseen questions stay below."""

    @classmethod
    def read(cls, text: str) -> Self:
        """The weights as `written` wrote them."""
        data: dict[str, Any] = json.loads(text)
        grams = {gram: int(weight) for weight, named in data["grams"].items() for gram in named}
        rows = [data["numbers"][name] for name in NAMES]
        means, deviations, numbers = zip(*rows, strict=True)
        return cls(means, deviations, numbers, grams, tuple(data["ranks"]))

    def written(self) -> str:
        """Their file: sorted, one weight a line."""
        by_weight: dict[int, list[str]] = {}
        for gram in sorted(self.grams):
            by_weight.setdefault(self.grams[gram], []).append(gram)
        rows = zip(self.means, self.deviations, self.numbers, strict=True)
        numbers = dict(zip(NAMES, map(list, rows), strict=True))
        lines = [
            f"{json.dumps(str(weight))}:{json.dumps(by_weight[weight], separators=(',', ':'))}"
            for weight in sorted(by_weight)
        ]
        return (
            f'{{"numbers":{json.dumps(numbers)},\n"ranks":{json.dumps(list(self.ranks))},\n'
            '"grams":{\n' + ",\n".join(lines) + "\n}}\n"
        )

    def terms(self, features: Features) -> list[Term]:
        """What each number adds, and what the known wording adds as one."""
        found = [
            Term(name, weight * scaled(value, mean, deviation) / UNIT)
            for name, value, mean, deviation, weight in zip(
                NAMES, features.numbers, self.means, self.deviations, self.numbers, strict=True
            )
        ]
        known = features.grams & self.grams.keys()
        wording = sum(self.grams[gram] for gram in known) / math.sqrt(len(known) or 1) / UNIT
        return [*found, Term("wording", wording)]

    def known_share(self, features: Features) -> float:
        """How much of the text's words the weights know: what they say of the rest is little."""
        words = [gram for gram in features.grams if " " not in gram]
        return sum(1 for word in words if word in self.grams) / max(len(words), 1)

    def rank(self, raw: float) -> float:
        """The share of questions with a lower raw score, linear between the known ones."""
        return interpolated([rank / UNIT for rank in self.ranks], raw)


def scaled(value: float, mean: int, deviation: int) -> float:
    """A number in standard deviations, within the limit."""
    return max(min((value * UNIT - mean) / deviation, SCALE_LIMIT), -SCALE_LIMIT)


def interpolated(knots: Sequence[float], value: float) -> float:
    """Where `value` stands between the rising knots, from 0 to 1."""
    after = bisect_right(knots, value)
    if after == 0:
        return 0.0
    if after == len(knots):
        return 1.0
    below, above = knots[after - 1], knots[after]
    return (after - 1 + (value - below) / (above - below)) / (len(knots) - 1)


@cache
def shipped() -> Weights:
    """The weights that come with this version. Read once."""
    return Weights.read(WEIGHTS_PATH.read_text(encoding="utf-8"))
