"""From a task to a complexity, with its reasons: the learned score, the structure's evidence, two thresholds. Pure."""

from collections.abc import Sequence

from app.domain.record import record
from app.domain.task import Complexity, Signal
from app.llm.routing.evidence import Asked, evidence
from app.llm.routing.features import features_of
from app.llm.routing.score import Term, Weights

UNKNOWN_SCORE = 0.4
"""What a text scores whose words the weights do not know."""
KNOWN_SHARE = 0.4
"""When so much of the words is known, what was learned counts in full; of less, in proportion."""
REASONS_LIMIT = 3
_LEAST_EFFECT = 0.02
"""A smaller effect is no reason."""
_PHRASES = {
    "length": ("long text", "short text"),
    "numbers": ("many numbers", "few numbers"),
    "vocabulary": ("varied vocabulary", "plain vocabulary"),
    "word length": ("long words", "short words"),
    "punctuation": ("much punctuation", "little punctuation"),
    "repetition": ("repetitive text", "little repetition"),
    "formulas": ("formulas", "no formulas"),
    "negations": ("negations", "no negations"),
}
"""How a number is told: when it is above the usual, and below."""


@record(frozen=True, slots=True)
class Thresholds:
    """From which score on a task is medium, and complex."""

    medium: float
    complex: float


@record(frozen=True, slots=True)
class Scored:
    """A score and what it is made of, the strongest signal first."""

    score: float
    signals: tuple[Signal, ...]


@record(frozen=True, slots=True)
class Decision:
    """The complexity, and why."""

    complexity: Complexity
    score: float
    signals: tuple[Signal, ...]
    reason: str
    """Such as `auto: score 0.86 >= 0.80 (wording +0.31, several steps +0.15)`."""


def score(asked: Asked, weights: Weights) -> Scored:
    """How hard the task looks, from 0 to 1."""
    features = features_of(asked.text)
    trust = min(weights.known_share(features) / KNOWN_SHARE, 1.0)
    terms = weights.terms(features)
    rank = weights.rank(sum(term.value for term in terms))
    learned = UNKNOWN_SCORE + (rank - UNKNOWN_SCORE) * trust
    extra = evidence(asked)
    total = max(min(learned + sum(signal.effect for signal in extra), 1.0), 0.0)
    shown = [*_told(terms, weights, features.numbers, trust), *extra]
    shown.sort(key=lambda signal: (-abs(signal.effect), signal.name))
    return Scored(round(total, 4), tuple(s for s in shown if abs(s.effect) >= _LEAST_EFFECT))


def decide(asked: Asked, weights: Weights, thresholds: Thresholds) -> Decision:
    """The complexity of a task, and the reason in words."""
    scored = score(asked, weights)
    value = scored.score
    if value >= thresholds.complex:
        complexity, compared = Complexity.COMPLEX, f">= {thresholds.complex:.2f}"
    elif value >= thresholds.medium:
        complexity, compared = Complexity.MEDIUM, f">= {thresholds.medium:.2f}"
    else:
        complexity, compared = (
            Complexity.SIMPLE,
            f"< {min(thresholds.medium, thresholds.complex):.2f}",
        )
    told = ", ".join(f"{s.name} {s.effect:+.2f}" for s in scored.signals[:REASONS_LIMIT])
    because = f" ({told})" if told else ""
    reason = f"auto: score {value:.2f} {compared}{because}"
    return Decision(complexity, value, scored.signals, reason)


def _told(
    terms: Sequence[Term], weights: Weights, numbers: Sequence[float], trust: float
) -> list[Signal]:
    """The learned terms as signals: each by what it adds where most questions score."""
    quarter = len(weights.ranks) // 4
    middle = (weights.ranks[-1 - quarter] - weights.ranks[quarter]) / 10_000
    slope = trust / 2 / middle
    signals = []
    for place, term in enumerate(terms):
        if term.name == "wording":
            kind = "hard" if term.value > 0 else "easy"
            name = f"wording of {kind} questions"
        else:
            name = _PHRASES[term.name][numbers[place] * 10_000 < weights.means[place]]
        signals.append(Signal(name, round(term.value * slope, 4)))
    return signals
