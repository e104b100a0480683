"""What every event is: a frozen fact in the past tense."""

from typing import ClassVar

from app.domain.record import record

DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40


@record(frozen=True, slots=True)
class Event:
    """Base of every event."""

    name: ClassVar[str]
    level: ClassVar[int] = INFO
    quoting: ClassVar[tuple[str, ...]] = ()
    """Fields that may quote what was asked or answered: emptied when the task is erased, as the body is."""
