"""A simulator that keeps the very bytes it was sent, and those it answered with."""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from app.domain.clock import SystemClock
from app.llm.anthropic_line import PATH
from app.simulator.core import Simulator
from app.simulator.reply import Reply

_WAIT_S = 30


class Overheard(Simulator):
    """Questions and answers, in the order they came."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.questions: list[bytes] = []
        self.answers: list[bytes] = []
        self._heard = asyncio.Event()

    def reply(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """As ever, and kept."""
        planned = super().reply(method, target, headers, body)
        if target.partition("?")[0] == PATH:
            self.questions.append(body)
            self.answers.append(b"".join(planned.pieces))
            self._heard.set()
        return planned

    async def heard(self, count: int) -> None:
        """Wait until so many questions have come."""
        async with asyncio.timeout(_WAIT_S):
            while len(self.questions) < count:
                self._heard.clear()
                await self._heard.wait()


def messages_of(question: bytes) -> bytes:
    """The bytes of its conversation, as they were sent."""
    whole: dict[str, Any] = orjson.loads(question)
    messages = orjson.dumps(whole["messages"])
    assert messages in question, "not compact JSON: compare otherwise"
    return messages
