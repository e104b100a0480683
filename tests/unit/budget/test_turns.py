"""Waiting in line: first come, first served; nobody is forgotten, nobody waits for one who waits for him."""

from hypothesis import given
from hypothesis import strategies as st

from app.budget.scopes import Scope
from app.budget.turns import Turns

A, B = Scope("session", "local/a"), Scope("service", "service")


def waiting(turns: Turns, task_id: str, scope: Scope = A) -> None:
    """Take a place and use up the one try a newcomer has."""
    turns.join(task_id, scope).clear()


def test_a_place_is_taken_only_when_somebody_waits():
    """Without a line, nobody is ahead of anybody."""
    turns = Turns()
    assert turns.ahead_of("t", (A, B)) is None
    waiting(turns, "t")
    assert turns.ahead_of("t", (A, B)) is None
    turns.leave("t")
    assert turns.ahead_of("other", (A, B)) is None


def test_a_newcomer_may_not_overtake():
    """While a line stands on any of its scopes, a newcomer is behind it; elsewhere it is free."""
    turns = Turns()
    waiting(turns, "first", B)
    assert turns.ahead_of("new", (A, B)) == B
    assert turns.ahead_of("new", (A,)) is None


def test_first_in_first_out():
    """Places are called in the order they were taken, each when the one before it has left."""
    turns, called = Turns(), list[str]()
    turns.on_turn = called.append
    tickets = {}
    for name in "abc":
        tickets[name] = turns.join(name, A)
        tickets[name].clear()
    turns.ended((A,))
    assert called == ["a"]
    assert [tickets[name].is_set() for name in "abc"] == [True, False, False]
    turns.leave("a")
    assert called == ["a", "b"]
    assert tickets["b"].is_set()
    turns.leave("b")
    turns.leave("c")
    turns.ended((A,))
    assert called == ["a", "b", "c"]


def test_leaving_from_the_middle_calls_nobody():
    """Who gives up behind the first wakes nobody and keeps the order of the others."""
    turns, called = Turns(), list[str]()
    turns.on_turn = called.append
    for name in "abc":
        waiting(turns, name)
    turns.leave("b")
    assert called == []
    turns.leave("a")
    assert called == ["c"]


def test_leaving_gives_up_every_place():
    """A task that left stands in no line any more; until it has ended, it comes back to where it was."""
    turns = Turns()
    for scope in (A, B):
        waiting(turns, "a", scope)
        waiting(turns, "b", scope)
    turns.leave("a")
    assert turns.ahead_of("b", (A, B)) is None
    assert turns.ahead_of("a", (A, B)) is None
    assert turns.ahead_of("newcomer", (A,)) == A
    turns.forget("a")
    assert turns.ahead_of("a", (A,)) == A


def test_who_began_first_goes_first_in_its_next_question_too():
    """A task that got through once does not queue again behind those that began after it."""
    turns = Turns()
    assert turns.ahead_of("a", (A,)) is None
    waiting(turns, "b")
    assert turns.ahead_of("a", (A,)) is None
    waiting(turns, "a")
    assert turns.ahead_of("b", (A,)) == A


def test_joining_again_keeps_the_place_and_the_ticket():
    """A task that comes back from the queue is where it was, and its ticket still counts."""
    turns = Turns()
    waiting(turns, "a")
    waiting(turns, "b")
    turns.ended((A,))
    assert turns.ahead_of("a", (A,)) is None
    assert turns.join("a", A).is_set()
    assert turns.is_called("a")
    assert not turns.is_called("b")


def test_a_new_place_is_worth_one_more_try():
    """What ended before the place was taken woke nobody: a newcomer's ticket is set from the start."""
    turns = Turns()
    ticket = turns.join("a", A)
    assert ticket.is_set()
    ticket.clear()
    assert not turns.join("a", A).is_set()
    assert turns.join("a", B).is_set()


def test_an_end_without_a_line_is_no_matter():
    """Nobody waits, nobody is called."""
    turns, called = Turns(), list[str]()
    turns.on_turn = called.append
    turns.ended((A, B))
    turns.leave("nobody")
    assert called == []


def test_two_who_stand_in_two_lines_do_not_wait_for_each_other():
    """Whoever waits longest is first in all of its lines, also in one that it joined later."""
    turns = Turns()
    waiting(turns, "old", A)
    waiting(turns, "young", B)
    scopes = (A, B)
    assert turns.ahead_of("old", scopes) is None
    assert turns.ahead_of("young", scopes) == A
    waiting(turns, "old", B)
    waiting(turns, "young", A)
    assert turns.ahead_of("old", scopes) is None
    called: list[str] = []
    turns.on_turn = called.append
    turns.ended((B,))
    assert called == ["old"]


scopes = st.lists(st.sampled_from([Scope("session", name) for name in "abc"]), unique=True)
actions = st.lists(
    st.tuples(st.sampled_from(["join", "join", "leave", "end"]), st.integers(0, 5), scopes)
)


@given(actions)
def test_there_is_always_one_who_may_try(steps):
    """Whatever happened, of those who wait one is behind nobody, and an end on its scopes calls it."""
    turns = Turns()
    lines: dict[str, set[Scope]] = {}
    for action, number, wanted in steps:
        name = f"t{number}"
        if action == "join":
            for scope in wanted:
                waiting(turns, name, scope)
                lines.setdefault(name, set()).add(scope)
        elif action == "leave":
            turns.leave(name)
            lines.pop(name, None)
        else:
            turns.ended(wanted)
    free = [name for name in lines if turns.ahead_of(name, lines[name]) is None]
    assert bool(free) == bool(lines)
    for name in free:
        called: list[str] = []
        turns.on_turn = called.append
        turns.ended(lines[name])
        assert set(called) == {name}


@given(st.permutations(range(6)))
def test_the_order_of_one_line_is_the_order_of_coming(order):
    """One after the other gets through, in the order they came."""
    turns, through = Turns(), list[int]()
    for number in order:
        waiting(turns, f"t{number}")
    for _ in order:
        (first,) = [n for n in order if n not in through and not turns.ahead_of(f"t{n}", (A,))]
        through.append(first)
        turns.leave(f"t{first}")
    assert through == list(order)


def test_what_another_process_may_have_freed_lets_every_head_try():
    """The first of each line is woken, nobody else."""
    turns, called = Turns(), list[str]()
    turns.on_turn = called.append
    for name, scope in [("a", A), ("behind", A), ("b", B)]:
        waiting(turns, name, scope)
    turns.look_again()
    assert called == ["a", "b"]
    assert turns.is_called("a")
    assert not turns.is_called("behind")
