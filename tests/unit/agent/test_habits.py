"""What a process learns of tasks of a kind."""

from app.agent.habits import FORGET_AT, KINDS_LIMIT, PACE_COUNT, PROVEN, Habit, Habits


def test_at_first_a_loop_is_expected_to_go_on_as_long_as_it_has() -> None:
    """One of two after the first question, two of three after the second."""
    habit = Habit()
    assert [round(habit.goes_on(number), 2) for number in (1, 2, 3)] == [0.5, 0.67, 0.75]
    assert not habit.is_proven(1)


def test_experience_takes_over() -> None:
    """Two tasks that named tools and called none are reason enough not to bet on a third."""
    habit = Habit()
    for _ in range(2):
        habit.learn(1, onward=False)
    assert habit.goes_on(1) < 0.2
    for _ in range(PROVEN):
        habit.learn(1, onward=True)
    assert habit.is_proven(1)
    assert habit.goes_on(1) > 0.7


def test_the_old_counts_less() -> None:
    """A kind that changes is found out."""
    habit = Habit()
    for _ in range(FORGET_AT):
        habit.learn(1, onward=True)
    for _ in range(FORGET_AT):
        habit.learn(1, onward=False)
    assert habit.goes_on(1) < 0.5


def test_pace() -> None:
    """By the tools' time limits until it has been seen."""
    habit = Habit()
    assert (habit.pace(may_be_slow=False), habit.pace(may_be_slow=True)) == (None, "1h")
    for _ in range(PACE_COUNT):
        habit.learn_gap(late=False)
    assert habit.pace(may_be_slow=True) == "5m"
    for _ in range(FORGET_AT + PACE_COUNT):
        habit.learn_gap(late=True)
    assert habit.pace(may_be_slow=False) == "1h"


def test_it_remembers_only_so_many_kinds() -> None:
    """Those that were seen last."""
    habits = Habits()
    first = habits.of(0)
    assert habits.of(0) is first
    for kind in range(KINDS_LIMIT + 1):
        habits.of(kind)
    assert habits.of(0) is not first
