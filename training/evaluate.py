"""How well a score sends questions to the strong model: RouteLLM's APGR and CPT, with a paired bootstrap."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from training.corpus import Example

CUTS = 10
BOOTSTRAPS = 1_000
_SEED = 20_260_101


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure, and where its bootstrap's middle 95 % lie."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def apgr(scores: Sequence[float], examples: Sequence[Example]) -> float:
    """Average performance gap recovered: 0.5 is chance, 1 would be everything at no strong call."""
    gains = _gains(scores, examples)
    points = [sum(gains[: round(len(gains) * cut / CUTS)]) for cut in range(CUTS + 1)]
    area = sum((a + b) / 2 for a, b in pairwise(points)) / CUTS
    return area / points[-1]


def cpt(scores: Sequence[float], examples: Sequence[Example], share: float) -> float:
    """The share of strong calls at which `share` of the gap is recovered first."""
    gains = _gains(scores, examples)
    wanted, total = share * sum(gains), 0
    for number, gain in enumerate(gains, 1):
        total += gain
        if total >= wanted:
            return number / len(gains)
    return 1.0


def bootstrap(
    scores: Sequence[Sequence[float]], examples: Sequence[Example], times: int = BOOTSTRAPS
) -> list[list[float]]:
    """The APGR of each of the scores on the same resampled examples, time after time."""
    chance = random.Random(_SEED)  # noqa: S311  (no secret)
    count = range(len(examples))
    drawn: list[list[float]] = [[] for _ in scores]
    for _ in range(times):
        picked = chance.choices(count, k=len(examples))
        sample = [examples[n] for n in picked]
        for values, score in zip(drawn, scores, strict=True):
            values.append(apgr([score[n] for n in picked], sample))
    return drawn


def interval(value: float, drawn: Sequence[float]) -> Interval:
    """The value with its bounds."""
    ordered = sorted(drawn)
    low, high = (ordered[round(q * (len(ordered) - 1))] for q in (0.025, 0.975))
    return Interval(value, low, high)


def _gains(scores: Sequence[float], examples: Sequence[Example]) -> list[int]:
    """Gains, the highest score first; equal ones in the file's order."""
    order = sorted(range(len(scores)), key=lambda n: -scores[n])
    return [examples[n].gain for n in order]
