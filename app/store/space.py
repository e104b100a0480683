"""How much room is left on the disk under the data: new work stops before the last of it is gone.

What is kept free is for what has begun already: the answers that were paid for must still be written.
"""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from app.domain.clock import Clock
from app.domain.errors import StoreFull

_LOOK_INTERVAL_S = 1.0
_log = logging.getLogger(__name__)


class DiskSpace:
    """Watches the disk of `folder`, looking at it once a second at most. A floor of 0 watches nothing."""

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        *,
        floor_bytes: int,
        free_bytes: Callable[[Path], int] | None = None,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self.floor_bytes = floor_bytes
        self._free_bytes = free_bytes or _free_bytes
        self._next_look_s = clock.monotonic_s()
        self._low = False

    @property
    def low(self) -> bool:
        """Whether less than the floor is free: nothing new may begin."""
        now_s = self._clock.monotonic_s()
        if self.floor_bytes and now_s >= self._next_look_s:
            self._next_look_s = now_s + _LOOK_INTERVAL_S
            self._look()
        return self._low

    def check(self) -> None:
        """Make sure that new work may be taken.

        Raises:
            StoreFull: less than the floor is free.
        """
        if self.low:
            message = f"Less than {self.floor_bytes} bytes are free on the disk of {self._folder}."
            raise StoreFull(message)

    def _look(self) -> None:
        try:
            free = self._free_bytes(self._folder)
        except OSError:  # nobody can say: the store's own errors will
            return
        was_low, self._low = self._low, free < self.floor_bytes
        if self._low and not was_low:
            message = f"{free} bytes are free, {self.floor_bytes} are kept: nothing new is begun."
            _log.error("disk_low", extra={"error_message": message})
        elif was_low and not self._low:
            _log.warning("disk_recovered", extra={"error_message": f"{free} bytes are free."})


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free
