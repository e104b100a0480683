"""Immutable records that are cheap to make.

The guard that `frozen=True` puts into a class at run time makes each field dearer to set than the rest of its
object, and a task makes some hundred of them. Here the type checker alone is the guard; equality, hash and slots
are those of a frozen dataclass.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:
    from dataclasses import dataclass

    def record(*, frozen: bool, slots: bool, **options: Any) -> Any:
        """`dataclass`, to be written with the same arguments; `frozen` is checked by the type checker only."""
        hashed = frozen and options.get("eq", True)
        return dataclass(slots=slots, unsafe_hash=hashed, **options)


__all__ = ["record"]
