"""Who is next: bounded waits, counted in calls."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from app.llm.governor.line import Line


def taken(line: Line[str], count: int) -> list[str]:
    """The next so many."""
    return [line.pop() for _ in range(count)]


def test_a_single_call_waits_for_one_of_a_thousand():
    """Another session's burst costs a newcomer one call, not a thousand."""
    line = Line[str]()
    for number in range(1_000):
        line.join(("k", "burst"), f"burst {number}")
    line.join(("k", "single"), "single")
    assert "single" in taken(line, 2)


def test_a_key_cannot_win_by_many_sessions():
    """Keys come in turn first: a thousand sessions of one key are one key."""
    line = Line[str]()
    for number in range(1_000):
        line.join(("many", f"s{number}"), f"many {number}")
    line.join(("other", "s"), "single")
    assert "single" in taken(line, 2)


def test_within_a_session_who_came_first_goes_first():
    """A session's own order is kept; who had a place before comes in at the front."""
    line = Line[str]()
    for name in ("b", "c", "d"):
        line.join(("k", "s"), name)
    line.join(("k", "s"), "a", first=True)
    assert taken(line, 4) == ["a", "b", "c", "d"]


def test_head_is_who_pop_takes_and_leaving_makes_room():
    """Places that are given up are gone, and empty flows with them."""
    line = Line[str]()
    assert line.head() is None
    line.join(("k", "s"), "a")
    line.join(("k", "s"), "b")
    line.join(("l", "t"), "c")
    assert line.head() == "a"
    line.leave(("k", "s"), "a")
    assert line.head() == "b"
    line.leave(("k", "s"), "b")
    assert (line.head(), len(line)) == ("c", 1)
    assert line.pop() == "c"
    assert (line.head(), len(line)) == (None, 0)


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from("xyz")), min_size=1, max_size=60))
def test_nobody_waits_for_more_than_a_round_a_place(flows):
    """The n-th of a session goes after at most n rounds, each no longer than keys times their sessions."""
    line = Line[tuple[tuple[str, str], int]]()
    places = Counter[tuple[str, str]]()
    for flow in flows:
        places[flow] += 1
        line.join(flow, (flow, places[flow]))
    keys = {key for key, _ in flows}
    sessions = {key: len({s for k, s in flows if k == key}) for key in keys}
    for position in range(len(flows)):
        (key, _), place = line.pop()
        assert position < place * sessions[key] * len(keys)
    assert len(line) == 0
