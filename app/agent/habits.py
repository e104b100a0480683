"""How tasks of a kind usually go on: learned in this process from those it has seen. Forgotten with it."""

from collections import OrderedDict
from dataclasses import dataclass, field

from app.llm.usage import WriteLifetime

KINDS_LIMIT = 1_024
QUESTIONS = 8
"""Questions told apart; later ones go on as this one does."""
PROVEN = 8
"""So many tasks of a kind are evidence."""
FORGET_AT = 64
"""Then the old ones count half: kinds change."""
PACE_COUNT = 4


@dataclass(slots=True)
class Habit:
    """One kind's."""

    asked: list[int] = field(default_factory=lambda: [0] * QUESTIONS)
    onward: list[int] = field(default_factory=lambda: [0] * QUESTIONS)
    gaps: int = 0
    late: int = 0
    """Gaps between two questions that were too long for the short lifetime."""

    def goes_on(self, number: int) -> float:
        """The probability that another question follows question `number`.

        Where nothing is known: the longer a loop has gone on, the longer it will.
        """
        at = min(number, QUESTIONS) - 1
        return (number / (number + 1) + self.onward[at]) / (1 + self.asked[at])

    def is_proven(self, number: int) -> bool:
        """That is known from experience."""
        return self.asked[min(number, QUESTIONS) - 1] >= PROVEN

    def learn(self, number: int, *, onward: bool) -> None:
        """Take down what followed question `number`."""
        at = min(number, QUESTIONS) - 1
        if self.asked[at] >= FORGET_AT:
            self.asked[at] //= 2
            self.onward[at] //= 2
        self.asked[at] += 1
        self.onward[at] += onward

    def learn_gap(self, *, late: bool) -> None:
        """Take down how soon a question followed the one before."""
        if self.gaps >= FORGET_AT:
            self.gaps //= 2
            self.late //= 2
        self.gaps += 1
        self.late += late

    def pace(self, *, may_be_slow: bool) -> WriteLifetime | None:
        """How soon they ask again: as they did, else as their tools' time limits say."""
        if self.gaps >= PACE_COUNT:
            return "1h" if 2 * self.late > self.gaps else "5m"
        return "1h" if may_be_slow else None


class Habits:
    """Of many kinds, those that were seen last."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[int, Habit] = OrderedDict()

    def of(self, kind: int) -> Habit:
        """A kind's, new if need be."""
        habit = self._kinds.get(kind)
        if habit is None:
            habit = self._kinds[kind] = Habit()
            if len(self._kinds) > KINDS_LIMIT:
                self._kinds.popitem(last=False)
        else:
            self._kinds.move_to_end(kind)
        return habit
