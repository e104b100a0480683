"""Answers with blocks of a type that nobody knows yet: paid to the nano-dollar, acted on, and sent back as they came."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from app.simulator.directive import OPENING
from tests.support.overheard import Overheard, messages_of
from tests.support.service import HANG, started_against

ROUNDS = 2
ASKED = f'Work. {OPENING}{{"steps": {ROUNDS}, "unknown_block": true, "answer": "All done."}}]]'
BLOCK = b'{"type":"future_block","data":"opaque"}'
WAYS = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


def settings_of(*, stream: bool) -> dict[str, Any]:
    """Every call streamed, or none."""
    return {
        "stream_above_tokens": 1 if stream else 100_000,
        "retry_attempts": 1,
        "workers": 1,
        "anthropic_api_key": "key-of-a-test",
    }


@WAYS
async def test_the_money_and_the_answer(tmp_path: Path, stream: bool) -> None:
    """Each answer's line is the bill's, to the nano-dollar; the task runs its tools and ends with its text."""
    simulator = Overheard()
    async with started_against(simulator, tmp_path, **settings_of(stream=stream)) as bursar:
        task = await bursar.run(ASKED, tools=["calculator"])
        lines = bursar.rows(
            "SELECT kind, amount_nano, surplus_nano FROM ledger_lines"
            " WHERE entry = 'settlement' ORDER BY step"
        )
    assert (task["outcome"], task["result"], task["steps"]) == ("answered", "All done.", ROUNDS + 1)
    assert [BLOCK in answer for answer in simulator.answers] == [True] * (ROUNDS + 1)
    assert [answer.startswith(b"event: ") for answer in simulator.answers] == [stream] * (
        ROUNDS + 1
    )
    assert lines == [
        {"kind": "confirmed", "amount_nano": line.nano, "surplus_nano": 0}
        for line in simulator.bill.lines
    ]
    assert simulator.bill.total.nano > 0


@WAYS
async def test_the_history_is_sent_back_byte_for_byte(tmp_path: Path, stream: bool) -> None:
    """Each question continues the bytes of the one before, the block in its place; a restart asks the very same."""
    simulator = Overheard()
    async with started_against(simulator, tmp_path, **settings_of(stream=stream)) as bursar:
        bursar.script(*[{"kind": "none"}] * ROUNDS, HANG)
        task = await bursar.submit(ASKED, tools=["calculator"])
        await simulator.heard(ROUNDS + 1)
    async with started_against(simulator, tmp_path, **settings_of(stream=stream)) as bursar:
        bursar.script()
        ended = await bursar.finished(task["id"])
    assert ended["outcome"] == "answered"
    first, second, third, again = simulator.questions
    assert again == third
    for earlier, later in ((first, second), (second, third)):
        begun = messages_of(earlier).removesuffix(b"]")
        grown = messages_of(later)
        assert grown.startswith(begun)
        answered = grown.removeprefix(begun).removeprefix(b",")
        assert answered.startswith(b'{"role":"assistant","content":[' + BLOCK + b",")
        if not stream:
            content = orjson.loads(simulator.answers[simulator.questions.index(earlier)])["content"]
            assert answered.startswith(b'{"role":"assistant","content":' + orjson.dumps(content))
