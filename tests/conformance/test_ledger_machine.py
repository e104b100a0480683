"""Random histories of the ledger, held against a plain model after every step, on every store."""

import asyncio
import calendar
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from app.budget.accounts import (
    Balance,
    ServiceLimits,
    balance,
    balances,
    open_account,
    set_limit,
    set_service_limits,
)
from app.budget.audit import Audit, audit
from app.budget.keys import create_key, set_key_limits
from app.budget.ledger import (
    Attempt,
    Confirmed,
    Kind,
    Meters,
    Settled,
    Warned,
    confirm,
    open_attempts,
    release,
    reserve,
    settle,
)
from app.budget.scopes import Payer, Scope, session_scope, task_scope
from app.domain.task import LOCAL_OWNER, Subject
from app.journal.call_events import AttemptPresumed
from app.journal.events import BudgetWarned
from app.journal.journal import Recorded
from app.store.port import ListenedStore, Operation, T, Tx
from app.worker.recovery import presume_open
from tests.conformance.ledger_model import Ended, Model, Name
from tests.support.clock import FakeClock
from tests.support.stores import ADAPTERS, MakeStore

DAY_S = 86_400
amounts = st.integers(0, 60)
limits = st.integers(0, 400)
window_limits = st.none() | st.integers(0, 600)
ample = st.integers(200, 500)
"""What a budget has at the begin: enough for a few calls."""
percents = st.sampled_from([50, 80, 100])
shares = st.integers(0, 100)
ENDINGS = st.sampled_from(["within", "above", "release", Kind.ESTIMATED, Kind.PRESUMED])
OWNERS = ("acme", "zeta")
"""Each has a key; whoever comes without one is the local owner."""


class Refused(Exception):  # noqa: N818
    """The reservation does not fit: undoes the operation, as the ledger asks of its callers."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.scope = scope


def taking(
    attempt: Attempt, payer: Payer, service: ServiceLimits, amount: int
) -> Operation[list[Balance]]:
    """Reserve as a call does, or leave everything as it was; returns how the budgets stand then."""

    def op(tx: Tx) -> list[Balance]:
        scopes = [one.scope for one in balances(tx, payer, service)]
        short = reserve(tx, attempt, scopes, amount)
        if short is not None:
            raise Refused(short)
        return balances(tx, payer, service)

    return op


def everything(
    names: Iterable[Name], subjects: Iterable[Subject]
) -> Operation[tuple[list[Balance], Audit, list[str]]]:
    """All balances, what the lines say of them, and the open reservations, in one snapshot."""
    scopes, whose = [Scope(*name) for name in names], list(subjects)

    def op(tx: Tx) -> tuple[list[Balance], Audit, list[str]]:
        found = [attempt.id for subject in whose for attempt in open_attempts(tx, subject)]
        return [balance(tx, scope) for scope in scopes], audit(tx), found

    return op


def settled_as(ended: Ended | None) -> Settled | None:
    """The model's answer in the ledger's words."""
    if ended is None:
        return None
    warnings = tuple(Warned(Scope(*name), limit, paid) for name, limit, paid in ended.warned)
    return Settled(ended.charged, ended.surplus, ended.task_paid, ended.held, warnings)


class LedgerMachine(RuleBasedStateMachine):
    """A store with a ledger, and the model beside it."""

    make_store: MakeStore
    tasks = Bundle("tasks")
    held = Bundle("held")
    ended = Bundle("ended")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.model = Model(self.clock.now_us())
        self.subjects: list[Subject] = []
        self.heard: list[Any] = []
        self.key_ids: dict[str, str] = {}
        self.service = ServiceLimits()
        self.count = 0
        self.store = self.opened()

    def opened(self) -> ListenedStore:
        """The store on the machine's folder."""
        store = self.make_store(Path(self.folder.name), self.clock)
        store.listener = self.heard.extend
        return store

    def do(self, op: Operation[T]) -> T:
        """One transaction."""
        return self.loop.run_until_complete(self.store.write(op))

    def teardown(self) -> None:
        self.loop.run_until_complete(self.store.close())
        self.loop.close()
        self.folder.cleanup()

    @initialize(
        target=tasks,
        day=st.none() | ample,
        month=st.none() | ample,
        service=st.tuples(*[st.none() | ample] * 3),
        given=st.lists(ample, min_size=10, max_size=10),
    )
    def start(
        self,
        day: int | None,
        month: int | None,
        service: tuple[int | None, int | None, int | None],
        given: list[int],
    ) -> Any:
        """Two keys, and sessions with a task each; in one there is a sub-task of a sub-task."""
        for owner in OWNERS:
            make = partial(create_key, day_limit_nano=day, month_limit_nano=month)
            key_id, _ = self.do(partial(make, owner=owner, name=""))
            self.key_ids[owner] = key_id
            self.model.keys[key_id] = (day, month)
        self.change_service_limits(*service, percent=80)
        sessions = [("acme", "a"), ("zeta", "a"), ("acme", "b"), (LOCAL_OWNER, "a")]
        made = [self.new_task(owner, name, given.pop(), given.pop()) for owner, name in sessions]
        made.append(self.new_sub_task(made[0], given.pop()))
        return multiple(*made, self.new_sub_task(made[-1], given.pop()))

    @rule(
        target=tasks,
        owner=st.sampled_from([LOCAL_OWNER, *OWNERS]),
        session=st.sampled_from("ab"),
        limit=limits,
        session_limit=limits,
    )
    def new_task(self, owner: str, session: str, limit: int, session_limit: int) -> Payer:
        payer = Payer(f"t{len(self.subjects)}", session, owner, (), self.key_ids.get(owner))
        self.open(session_scope(owner, session), owner, session_limit)
        return self.accepted(payer, limit)

    @rule(target=tasks, parent=tasks, limit=limits)
    def new_sub_task(self, parent: Payer, limit: int) -> Payer:
        ancestors = (parent.task_id, *parent.ancestors)[:2]
        task_id = f"t{len(self.subjects)}"
        payer = Payer(task_id, parent.session_id, parent.owner, ancestors, parent.key_id)
        return self.accepted(payer, limit)

    def accepted(self, payer: Payer, limit: int) -> Payer:
        """The task's own budget."""
        self.subjects.append(Subject(payer.task_id, payer.session_id, payer.owner))
        self.open(task_scope(payer.task_id), payer.owner, limit)
        return payer

    def open(self, scope: Scope, owner: str, limit: int) -> None:
        """Make the account on both sides, unless it is there."""
        self.do(lambda tx: open_account(tx, scope, owner, limit))
        self.model.open((scope.kind, scope.id), limit)

    def attempt_of(self, payer: Payer) -> Attempt:
        """One more attempt of the task."""
        self.count += 1
        subject = Subject(payer.task_id, payer.session_id, payer.owner)
        return Attempt(subject, self.count, 1, "m", "p", payer.key_id or "")

    @rule(target=held, asked=st.lists(st.tuples(tasks, amounts), min_size=1, max_size=5))
    def reserve_at_once(self, asked: list[tuple[Payer, int]]) -> Any:
        """Several sessions ask in the same moment: one commit, each kept or undone alone."""
        attempts = [self.attempt_of(payer) for payer, _ in asked]

        async def ask() -> list[Any]:
            writes = (
                self.store.write(taking(attempt, payer, self.service, amount))
                for attempt, (payer, amount) in zip(attempts, asked, strict=True)
            )
            return await asyncio.gather(*writes, return_exceptions=True)

        made = []
        answers = self.loop.run_until_complete(ask())
        for attempt, (payer, amount), answer in zip(attempts, asked, answers, strict=True):
            short = self.model.reserve(attempt.id, payer, amount)
            if short is not None:
                assert isinstance(answer, Refused)
                assert answer.scope == Scope(*short)
                continue
            made.append(attempt.id)
            self.fits(attempt.id, answer)
        return multiple(*made)

    def fits(self, attempt_id: str, stands: list[Balance]) -> None:
        """At the instant of a reservation no budget of it is overdrawn; the windows are those of now."""
        names, _ = self.model.held[attempt_id]
        assert [one.scope for one in stands] == [Scope(*name) for name in names]
        for one in stands:
            assert one.spent_nano + one.reserved_nano <= one.limit_nano

    def ends(self, attempt_id: str, kind: Kind, cost: int | None) -> None:
        """Settle on both sides; too late changes nothing."""
        presumed = kind is Kind.PRESUMED
        expected = settled_as(self.model.end(attempt_id, cost, presumed=presumed))
        assert self.do(lambda tx: settle(tx, attempt_id, kind, cost)) == expected

    @rule(target=ended, done=consumes(held), how=ENDINGS, share=shares)
    def end(self, done: str, how: str, share: int) -> str:
        """The call is over, in one of the ways in which it can be."""
        _, amount = self.model.held.get(done, ((), 100))
        if how == "release":
            expected = settled_as(self.model.end(done, 0))
            assert self.do(lambda tx: release(tx, done)) == expected
        elif how == "within":
            self.ends(done, Kind.CONFIRMED, amount * share // 100)
        elif how == "above":
            self.ends(done, Kind.CONFIRMED, amount + share)
        else:
            self.ends(done, Kind(how), None)
        return done

    @rule(target=ended, payer=tasks, amount=amounts, how=ENDINGS, share=shares)
    def call(self, payer: Payer, amount: int, how: str, share: int) -> Any:
        """A whole call."""
        made = self.reserve_at_once([(payer, amount)]).values
        return multiple(*(self.end(attempt_id, how, share) for attempt_id in made))

    @rule(done=ended | st.sampled_from(["", "t0", "nobody/1/1"]), cost=amounts)
    def end_what_is_not_open(self, done: str, cost: int) -> None:
        assert self.do(lambda tx: settle(tx, done, Kind.CONFIRMED, cost)) is None
        assert self.do(lambda tx: release(tx, done)) is None

    @rule(late=ended | held, cost=amounts)
    def answer_after_all(self, late: str, cost: int) -> None:
        """Only what was presumed is confirmed, and that once."""
        task_id, step, _ = late.split("/")
        attempt = Attempt(Subject(task_id, "s"), int(step), 1, "m", "p")
        found = self.do(lambda tx: confirm(tx, attempt, cost, Meters(input_tokens=3), "late"))
        expected = self.model.confirm(late, cost)
        assert found == (None if expected is None else Confirmed(*expected))

    @rule(data=st.data(), limit=limits, percent=percents)
    def change_limit(self, data: st.DataObject, limit: int, percent: int) -> None:
        """Raise or lower a task's or a session's budget, also below what is spent."""
        own = [name for name in self.model.accounts if name[0] in ("task", "session")]
        if own:
            name = data.draw(st.sampled_from(own))
            self.do(lambda tx: set_limit(tx, Scope(*name), limit, percent))
            self.model.change(name, limit, percent)

    @rule(owner=st.sampled_from(OWNERS), day=window_limits, month=window_limits)
    def change_key_limits(self, owner: str, day: int | None, month: int | None) -> None:
        key_id = self.key_ids[owner]
        self.do(lambda tx: set_key_limits(tx, key_id, day_limit_nano=day, month_limit_nano=month))
        self.model.change_key(key_id, day, month)

    @rule(day=window_limits, month=window_limits, ever=window_limits, percent=percents)
    def change_service_limits(
        self, day: int | None, month: int | None, ever: int | None, percent: int
    ) -> None:
        self.service = ServiceLimits(day, month, ever, percent)
        self.do(lambda tx: set_service_limits(tx, self.service))
        self.model.change_service((day, month, ever), percent)

    @rule(until=st.sampled_from(["second", "hour", "day", "month"]), short_s=st.integers(0, 1))
    def time_passes(self, until: str, short_s: int) -> None:
        """On to the begin of the next second, hour, day or month, or to the second before it."""
        now = datetime.fromtimestamp(self.clock.now_us() // 1_000_000, UTC)
        days = calendar.monthrange(now.year, now.month)[1] - now.day + 1 if until == "month" else 1
        gone_s = now.hour * 3_600 + now.minute * 60 + now.second
        span_s = {"second": 1, "hour": 3_600 - gone_s % 3_600}.get(until, days * DAY_S - gone_s)
        self.wait(span_s - short_s)

    def wait(self, seconds: int) -> None:
        """Move the time of both."""
        self.clock.move(seconds)
        self.model.now_us = self.clock.now_us()

    @rule()
    def crash(self) -> None:
        """The process ends with calls in flight; the next one presumes each of them spent."""
        self.loop.run_until_complete(self.store.close())
        self.store = self.opened()
        self.do(lambda tx: set_service_limits(tx, self.service))
        self.model.change_service(self.model.service, self.model.percent)
        for subject in self.subjects:
            self.recovered(subject)

    def recovered(self, subject: Subject) -> None:
        """One task's calls that were in flight."""
        lost = [name for name in self.model.held if name.startswith(f"{subject.task_id}/")]
        endings = [self.model.end(attempt_id, None, presumed=True) for attempt_id in lost]
        self.heard.clear()
        found = self.do(lambda tx: presume_open(tx, subject, "restart"))
        assert found == len(lost)
        told = [one.event for one in self.heard if isinstance(one, Recorded)]
        charged = [one.charged_nano for one in told if isinstance(one, AttemptPresumed)]
        warned = [
            (e.scope, e.limit_nano, e.spent_nano) for e in told if isinstance(e, BudgetWarned)
        ]
        ended = [one for one in endings if one is not None]
        assert charged == [one.charged for one in ended]
        assert warned == [(n[0], limit, paid) for one in ended for n, limit, paid in one.warned]

    @invariant()
    def stands_as_the_model(self) -> None:
        model = self.model
        op = everything(model.accounts, self.subjects)
        stands, audited, found = self.loop.run_until_complete(self.store.read(op))
        for one, account in zip(stands, model.accounts.values(), strict=True):
            assert one.limit_nano == account.limit, one
            assert one.spent_nano == account.paid, one
            assert one.reserved_nano == account.reserved, one
        assert audited == Audit(len(model.accounts), model.line_count, ())
        assert sorted(found) == sorted(model.held)


@pytest.mark.parametrize(
    ("make_store", "histories", "steps"),
    [
        pytest.param("sqlite", 50, 40, marks=pytest.mark.timeout(240)),
        pytest.param("postgres", 10, 30, marks=pytest.mark.timeout(240)),
        *(
            pytest.param(name, 1_500, 60, marks=[pytest.mark.long, pytest.mark.timeout(3_600)])
            for name in ADAPTERS
        ),
    ],
    indirect=["make_store"],
)
def test_ledger_stands_where_the_model_stands(
    make_store: MakeStore, histories: int, steps: int
) -> None:
    """Whatever is reserved, ended, lost, raised, lowered and rolled over: the balances are the model's."""
    machine = type("Machine", (LedgerMachine,), {"make_store": staticmethod(make_store)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=histories,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
