"""What other replicas commit, as far as it concerns this one: followers, cancels of what runs here, budgets.

A hint says where to look; the rows say what is so. Hints can be lost with their connection, so every few
seconds this looks at everything that concerns it anyway.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from app.budget.turns import Turns
from app.domain.clock import Clock
from app.domain.errors import StoreError
from app.journal.feed import Feed
from app.journal.hints import ANYTHING, Hint, UpstreamHint, parse_hint

_log = logging.getLogger(__name__)
PACE_S = 0.05
"""Hints that come closer together than this are attended to together."""


class Runs(Protocol):
    """What runs in this process."""

    async def hear(self, hint: Hint) -> None:
        """Look whether somebody else wants something of it.

        Raises:
            StoreError: it could not be looked at.
        """
        ...


class Hearing:
    """Give `heard` to the store's listener; `me` is the name under which this process's own hints go out."""

    def __init__(
        self,
        me: str,
        feed: Feed,
        pool: Runs,
        turns: Turns,
        clock: Clock,
        *,
        poll_s: float,
        on_upstream: Callable[[UpstreamHint], None] = lambda _hint: None,
    ) -> None:
        self._on_upstream = on_upstream
        self._me = me
        self._feed = feed
        self._pool = pool
        self._turns = turns
        self._clock = clock
        self._poll_s = poll_s
        self._hint = Hint(frozenset())
        self._all_at_s = clock.monotonic_s() + poll_s
        self._woken = asyncio.Event()
        self._attending: asyncio.Task[None] | None = None
        self._stopping = False

    def heard(self, text: str | None) -> None:
        """A hint as it came; None: some may have been missed."""
        hint = ANYTHING if text is None else parse_hint(text, self._me)
        if hint is not None:
            for met in hint.upstream:
                self._on_upstream(met)
            if not hint.upstream or hint.task_ids:
                self._note(hint)

    def start(self) -> None:
        """Begin to attend to hints."""
        self._attending = asyncio.create_task(self._attend(), name="hearing")

    async def stop(self) -> None:
        """Attend to nothing more."""
        self._stopping = True
        if self._attending is not None:
            self._attending.cancel()
            await asyncio.wait({self._attending})

    def _note(self, hint: Hint) -> None:
        self._feed.hear(hint)
        known = self._hint.task_ids
        if known is None or hint.task_ids is None:
            self._hint = ANYTHING
        else:
            self._hint = Hint(known | hint.task_ids)
        self._woken.set()

    async def _attend(self) -> None:
        while not self._stopping:  # Python 3.11's `wait_for` can swallow the cancel
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), self._poll_s)
            if self._clock.monotonic_s() >= self._all_at_s:
                self._note(ANYTHING)
            self._woken.clear()
            hint, self._hint = self._hint, Hint(frozenset())
            if hint.task_ids is None:
                self._all_at_s = self._clock.monotonic_s() + self._poll_s
            try:
                self._turns.look_again()
                await self._pool.hear(hint)
            except StoreError as error:
                _log.warning("hints_postponed", extra={"error_message": str(error)})
                self._all_at_s = 0.0  # what was hinted at is among everything
            except Exception:  # noqa: BLE001  (a bug must not end it in silence)
                _log.exception("hints_failed")
            await self._clock.sleep(PACE_S)
