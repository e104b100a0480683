"""The lease of this process: under which id it holds tasks, and until when that is sure."""

import asyncio
import math
from contextlib import suppress


class Lease:
    """Shared by who renews it and who relies on it. `worker` changes when a lease was lost."""

    def __init__(self, worker: str = "") -> None:
        self.worker = worker
        self.sure_until_s = math.inf
        """By the monotonic clock: until then nobody can have taken over. Later: ask the store."""
        self._wanted = asyncio.Event()

    def is_sure(self, monotonic_s: float) -> bool:
        """Whether a run of this worker may start something without asking the store first."""
        return monotonic_s < self.sure_until_s

    def want_renewal(self) -> None:
        """A claim was refused: renew now, not at the next beat."""
        self._wanted.set()

    async def wanted(self, within_s: float) -> None:
        """Wait until a renewal is wanted, `within_s` at most."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wanted.wait(), within_s)
        self._wanted.clear()
