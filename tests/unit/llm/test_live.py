"""Text while it is being written: who hears it, what a slow watcher loses, and when a call is streamed."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from app.llm.live import WATCHER_LIMIT_CHARS, Live, TextDelta, Voice
from app.llm.provider import ModelAnswer, ModelFailure, ModelRequest
from app.llm.stream import MessageStream
from tests.support.desk import Desk, call_of, open_desk
from tests.support.provider import answer, lost, text
from tests.support.seeding import claimed
from tests.support.wire import event


def voice(live: Live, attempt: int = 1) -> Voice:
    """Of an attempt of the task that is watched."""
    found = live.voice("task_1", 1, 1, attempt)
    assert found is not None
    return found


def test_nobody_hears_what_nobody_watches() -> None:
    """A voice exists only while its task is watched; nothing is kept afterwards."""
    live = Live()
    assert live.voice("task_1", 1, 1, 1) is None
    with live.watch("task_1"):
        assert live.voice("task_2", 1, 1, 1) is None
        speaks = voice(live)
    assert live.voice("task_1", 1, 1, 1) is None
    speaks("to nobody")


def test_pieces_of_one_attempt_are_joined() -> None:
    """What a watcher has not taken yet comes as one piece; every watcher gets all of it."""
    live = Live()
    with live.watch("task_1") as one, live.watch("task_1") as other:
        speaks = voice(live)
        speaks("Hel")
        assert one.woken.is_set()
        assert one.take() == [TextDelta(1, 1, 1, 0, "Hel")]
        speaks("lo ")
        speaks("you")
        assert one.take() == [TextDelta(1, 1, 1, 3, "lo you")]
        assert other.take() == [TextDelta(1, 1, 1, 0, "Hello you")]
        assert one.take() == []


def test_attempts_are_told_apart() -> None:
    """After a retry the text begins anew, under the next number."""
    live = Live()
    with live.watch("task_1") as watcher:
        voice(live)("Hel")
        voice(live, attempt=2)("Hello")
        assert watcher.take() == [TextDelta(1, 1, 1, 0, "Hel"), TextDelta(1, 1, 2, 0, "Hello")]


def test_a_slow_watcher_loses_the_oldest() -> None:
    """What waits is bounded; the offset says what is missing. Another watcher loses nothing."""
    live, piece = Live(), "x" * 1_000
    with live.watch("task_1") as slow, live.watch("task_1") as quick:
        speaks, heard = voice(live), 0
        for _ in range(200):
            speaks(piece)
            heard += sum(len(delta.text) for delta in quick.take())
        (kept,) = slow.take()
        assert heard == 200_000
        assert len(kept.text) <= WATCHER_LIMIT_CHARS
        assert kept.offset + len(kept.text) == 200_000


def test_one_piece_beyond_the_bound_still_comes() -> None:
    """The newest piece is never dropped."""
    live = Live()
    with live.watch("task_1") as watcher:
        voice(live)("y" * (2 * WATCHER_LIMIT_CHARS))
        assert len(watcher.take()[0].text) == 2 * WATCHER_LIMIT_CHARS


def test_a_stream_tells_its_text_and_nothing_else() -> None:
    """Thinking and tool input are not text."""
    told: list[str] = []
    stream = MessageStream(told.append)
    for kind, field in (("text", "text"), ("thinking", "thinking"), ("input_json", "partial_json")):
        index = {"text": 0, "thinking": 1, "input_json": 2}[kind]
        if index == 0:
            message = {"model": "m", "usage": {}, "content": []}
            stream.feed(event({"type": "message_start", "message": message}))
        block = {"type": "content_block_start", "index": index, "content_block": {"type": kind}}
        stream.feed(event(block))
        for part in ("one ", "two"):
            delta = {"type": f"{kind}_delta", field: part}
            stream.feed(event({"type": "content_block_delta", "index": index, "delta": delta}))
    assert told == ["one ", "two"]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """A desk whose calls can be watched."""
    async with open_desk(tmp_path, max_attempts=2) as opened:
        yield opened


async def asked(desk: Desk, *, budget_nano: int, task_id: str = "t") -> ModelRequest:
    """The request of a short call under this budget."""
    desk.provider.script = [answer(text("done"))]
    claim = await claimed(desk.store, task_id, budget_nano=budget_nano)
    await desk.ask(call_of(claim, live=True))
    return desk.provider.asked[-1]


async def test_a_short_call_is_not_streamed(desk: Desk) -> None:
    """With money enough, nobody watching and little to say, the answer comes in one piece."""
    request = await asked(desk, budget_nano=10**9)
    assert not request.stream
    assert request.progress is not None
    assert request.progress.on_text is None


async def test_a_tight_budget_is_streamed(desk: Desk) -> None:
    """Where the loss of a whole reservation would end the task, a loss is bounded by what is reported."""
    desk.provider.script = [answer(text("done"))]
    claim = await claimed(desk.store, budget_nano=10**9)
    await desk.ask(call_of(claim))
    (started,) = [e for e in await desk.events(claim) if e.name == "attempt_started"]
    twice = 2 * started.reserved_nano
    assert (await asked(desk, budget_nano=twice, task_id="enough")).stream is False
    assert (await asked(desk, budget_nano=twice - 1, task_id="tight")).stream is True


@pytest.mark.parametrize("live", [True, False])
async def test_what_somebody_watches_is_streamed(desk: Desk, live: bool) -> None:
    """Only what is the task's own text: a question that the service asks for itself stays its own."""
    claim = await claimed(desk.store, budget_nano=10**9)
    desk.provider.script = [answer(text("done"))]
    with desk.live.watch(claim.subject.task_id):
        await desk.ask(call_of(claim, live=live))
    assert desk.provider.asked[-1].stream is live


async def test_a_retry_speaks_under_its_own_number(desk: Desk) -> None:
    """The attempt that broke off and the one after it are told apart; a watcher that came late hears the second."""
    claim = await claimed(desk.store, budget_nano=10**9)

    def say(words: str, then: ModelFailure | None = None) -> Callable[[ModelRequest], ModelAnswer]:
        def line(request: ModelRequest) -> ModelAnswer:
            assert request.progress is not None
            assert request.progress.on_text is not None
            request.progress.on_text(words)
            if then is not None:
                raise then
            return answer(text(words))

        return line

    desk.provider.script = [say("Hel", lost()), say("Hello")]
    with desk.live.watch(claim.subject.task_id) as watcher:
        await desk.ask(call_of(claim, live=True))
        said = watcher.take()
    run = claim.subject.run
    assert said == [TextDelta(run, 1, 1, 0, "Hel"), TextDelta(run, 1, 2, 0, "Hello")]
