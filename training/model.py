"""From examples to weights."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from app.llm.routing.features import Features, features_of
from app.llm.routing.score import UNIT, Weights, scaled
from training.corpus import Example
from training.ridge import Row, solve

RANKS = 20
NUMBER_SCALE = 0.3
"""The numbers beside the wording, whose row has length 1: a prior that they matter less."""
_NOT_RANKED = tuple(UNIT * n for n in range(RANKS + 1))


@dataclass(frozen=True, slots=True)
class Choice:
    """What the cross-validation chose."""

    penalty: float = 24.0
    least_count: int = 5
    """A wording must be in so many training prompts."""
    kept: int = 2_500
    """How many wordings are shipped."""


Seen = Sequence[tuple[Features, int]]
"""Features and gains."""


def seen(examples: Iterable[Example]) -> Seen:
    """What is learned from."""
    return [(features_of(example.prompt), example.gain) for example in examples]


def train(examples: Seen, choice: Choice) -> Weights:
    """Weights without ranks: learn all frequent wordings, keep the strongest, learn those again."""
    counts: Counter[str] = Counter()
    for features, _ in examples:
        counts.update(features.grams)
    frequent = sorted(gram for gram, count in counts.items() if count >= choice.least_count)
    means, deviations = _scales([features.numbers for features, _ in examples])
    blank = Weights(means, deviations, (0,) * len(means), dict.fromkeys(frequent, 0), _NOT_RANKED)
    rows, learned = _learned(examples, blank, choice.penalty)
    strength = [0.0] * len(learned)
    for columns, values in rows:
        for column, value in zip(columns, values, strict=True):
            strength[column] += value * value
    strongest = sorted(
        range(len(frequent)), key=lambda c: (-abs(learned[c]) * math.sqrt(strength[c]), c)
    )[: choice.kept]
    kept = sorted(frequent[column] for column in strongest)
    _, learned = _learned(examples, replace(blank, grams=dict.fromkeys(kept, 0)), choice.penalty)
    grams = {gram: round(learned[column] * UNIT) for column, gram in enumerate(kept)}
    numbers = tuple(round(w * NUMBER_SCALE * UNIT) for w in learned[len(kept) :])
    return replace(blank, numbers=numbers, grams={g: w for g, w in grams.items() if w})


def trained(examples: Sequence[Example], choice: Choice) -> Weights:
    """The weights from all examples, ranked by those of one fold that a first training did not see."""
    unseen = seen(example for example in examples if example.fold == 0)
    first = train(seen(example for example in examples if example.fold), choice)
    scores = sorted(raw_score(first, features) for features, _ in unseen)
    cuts = [scores[round(n * (len(scores) - 1) / RANKS)] for n in range(RANKS + 1)]
    ranks = [round(cut * UNIT) for cut in cuts]
    return replace(train(seen(examples), choice), ranks=tuple(ranks))


def raw_score(weights: Weights, features: Features) -> float:
    """The sum of all terms."""
    return sum(term.value for term in weights.terms(features))


def _learned(examples: Seen, blank: Weights, penalty: float) -> tuple[list[Row], list[float]]:
    column_of = {gram: column for column, gram in enumerate(blank.grams)}
    rows = [_row(features, blank, column_of) for features, _ in examples]
    mean = statistics.fmean(gain for _, gain in examples)
    columns = len(column_of) + len(blank.means)
    return rows, solve(rows, [gain - mean for _, gain in examples], columns, penalty)


def _row(features: Features, blank: Weights, column_of: dict[str, int]) -> Row:
    known = sorted(column_of[gram] for gram in features.grams if gram in column_of)
    share = 1 / math.sqrt(len(known) or 1)
    numbers = [
        NUMBER_SCALE * scaled(value, mean, deviation)
        for value, mean, deviation in zip(
            features.numbers, blank.means, blank.deviations, strict=True
        )
    ]
    own = range(len(column_of), len(column_of) + len(numbers))
    return [*known, *own], [share] * len(known) + numbers


def _scales(rows: Sequence[Sequence[float]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    columns = list(zip(*rows, strict=True))
    means = tuple(round(statistics.fmean(column) * UNIT) for column in columns)
    deviations = tuple(round(statistics.pstdev(column) * UNIT) or 1 for column in columns)
    return means, deviations
