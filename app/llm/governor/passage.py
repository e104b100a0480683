"""One call's way past the governor, which it gives free while it waits for something else."""

from app.llm.call import Call
from app.llm.governor.governor import Governor
from app.llm.governor.road import Permit


class Passage:
    """The permit of a call that has not left yet. `step_aside` and `enter` again: others leave meanwhile."""

    __slots__ = ("_call", "_governor", "_permit")

    def __init__(self, governor: Governor, call: Call) -> None:
        self._governor = governor
        self._call = call
        self._permit: Permit | None = None

    @property
    def is_probe(self) -> bool:
        """All others wait for this call's answer."""
        return self._permit is not None and self._permit.probe

    async def enter(self) -> None:
        """Wait for the call's turn.

        Raises:
            Parked: that is too long for a worker's slot; the place is kept.
        """
        self._permit = self._governor.enter(self._call) or await self._governor.wait(self._call)

    def step_aside(self) -> None:
        """Nothing left, or not yet."""
        if self._permit is not None:
            self._permit.unused()

    def leave(self) -> Permit:
        """The call leaves: its end ends the permit."""
        assert self._permit is not None  # noqa: S101  (who leaves has entered)
        return self._permit
