"""Prompt caching: write, read, expiry, minimum, lookback, automatic markers, the rules' 400s."""

from typing import Any

import pytest

from app.simulator.caching import ENTRY_LIMIT, CachePlan, PromptCache
from app.simulator.prices import Meters
from tests.unit.simulator.driving import CALCULATOR, Driver, assistant, user

_LONG = "All work and no play. " * 200  # 1,100 tokens: above Haiku 5.5's minimum of 512
_MARK = {"type": "ephemeral"}
_HOUR = {"type": "ephemeral", "ttl": "1h"}


def _system(marker: dict[str, str] | None = None, text: str = _LONG) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text, "cache_control": marker or _MARK}]


def _split(answer: dict[str, Any]) -> tuple[int, int, int, int]:
    usage = answer["usage"]
    made = usage["cache_creation"]
    assert usage["cache_creation_input_tokens"] == sum(made.values())
    return (
        usage["input_tokens"],
        usage["cache_read_input_tokens"],
        made["ephemeral_5m_input_tokens"],
        made["ephemeral_1h_input_tokens"],
    )


def test_write_then_read(driver: Driver) -> None:
    """The first request writes up to the marker, the next reads it; the rest stays plain input."""
    plain, read, five, hour = _split(driver.ask("Hi", system=_system()))
    assert (plain, read, five, hour) == (6, 0, 1_102, 0)
    assert _split(driver.ask("Ho", system=_system())) == (6, 1_102, 0, 0)


def test_caching_does_not_change_the_prompt(driver: Driver) -> None:
    """The four input meters add up to the uncached prompt."""
    uncached = driver.ask("Hi", system=_LONG)["usage"]["input_tokens"]
    assert sum(_split(driver.ask("Hi", system=_system()))) == uncached


def test_five_minutes(driver: Driver) -> None:
    """An entry lives five minutes from the request that last read it, and no longer."""
    driver.ask("Hi", system=_system())
    driver.clock.advance(299)
    assert _split(driver.ask("Hi", system=_system()))[1] == 1_102
    driver.clock.advance(299)
    assert _split(driver.ask("Hi", system=_system()))[1] == 1_102
    driver.clock.advance(300)
    assert _split(driver.ask("Hi", system=_system())) == (6, 0, 1_102, 0)


def test_one_hour(driver: Driver) -> None:
    """An entry marked 1h is written at its own meter and lives an hour."""
    assert _split(driver.ask("Hi", system=_system(_HOUR))) == (6, 0, 0, 1_102)
    driver.clock.advance(3_599)
    assert _split(driver.ask("Hi", system=_system(_HOUR)))[1] == 1_102
    driver.clock.advance(3_600)
    assert _split(driver.ask("Hi", system=_system(_HOUR)))[3] == 1_102


def test_both_lives_in_one_request(driver: Driver) -> None:
    """A 1h marker on the system prompt and a 5m one on the tail split the write."""
    tail = user([{"type": "text", "text": _LONG, "cache_control": _MARK}])
    assert _split(driver.ask([tail], system=_system(_HOUR))) == (0, 0, 1_105, 1_102)


@pytest.mark.parametrize(
    ("model", "minimum"),
    [
        ("claude-haiku-5-5", 512),
        ("claude-sonnet-5", 1_024),
        ("claude-opus-4-7", 2_048),
        ("claude-haiku-4-5", 4_096),
    ],
)
def test_the_minimum(driver: Driver, model: str, minimum: int) -> None:
    """A prefix one token short of the model's minimum is silently not cached."""
    enough = "x" * (4 * (minimum - 2))
    short = enough[4:]
    assert _split(driver.ask("Hi", model=model, system=_system(text=short)))[1:] == (0, 0, 0)
    assert _split(driver.ask("Hi", model=model, system=_system(text=short)))[1:] == (0, 0, 0)
    assert _split(driver.ask("Hi", model=model, system=_system(text=enough)))[2] == minimum


def _turns(count: int) -> list[dict[str, Any]]:
    blocks = [{"type": "text", "text": f"{number} {_LONG}"} for number in range(count)]
    return [user(blocks)]


@pytest.mark.parametrize(("added", "hit"), [(1, True), (19, True), (20, False), (30, False)])
def test_lookback_is_twenty_blocks(driver: Driver, added: int, hit: bool) -> None:
    """A marker finds what was written at most 19 blocks before it."""
    written = _split(driver.ask(_turns(3), cache_control=_MARK))[2]
    read = _split(driver.ask(_turns(3 + added), cache_control=_MARK))[1]
    assert read == (written if hit else 0)


def test_automatic_marker_moves_along(driver: Driver) -> None:
    """The top-level marker writes the tail of each turn and reads what the last turn wrote."""
    turns = [user(_LONG)]
    first = driver.ask(turns, cache_control=_MARK)
    assert _split(first)[:2] == (0, 0)
    turns += [assistant(first["content"]), user("And then?")]
    plain, read, five, _ = _split(driver.ask(turns, cache_control=_MARK))
    assert (plain, read) == (0, _split(first)[2])
    assert five > 0


def test_explicit_and_automatic_share_entries(driver: Driver) -> None:
    """A string and its one text block are the same prefix, however the marker came there."""
    driver.ask(_LONG, cache_control=_MARK)
    marked = [user([{"type": "text", "text": _LONG, "cache_control": _MARK}])]
    assert _split(driver.ask(marked))[1] > 0


@pytest.mark.parametrize(
    "change",
    [
        {"model": "claude-sonnet-5-5"},
        {"tools": [CALCULATOR]},
        {"system": _system(text=f"{_LONG}!")},
    ],
)
def test_what_breaks_a_prefix(driver: Driver, change: dict[str, Any]) -> None:
    """Another model, other tools, another system prompt: nothing is read."""
    driver.ask("Hi", system=_system())
    assert _split(driver.ask("Hi", **{"system": _system(), **change}))[1] == 0


def test_options_break_messages_only(driver: Driver) -> None:
    """Another effort loses the messages, and keeps what stands before them."""
    fields: dict[str, Any] = {"system": _system(), "cache_control": _MARK}
    driver.ask(_LONG, **fields)
    assert _split(driver.ask(_LONG, **fields))[1] > 2_000
    lower = driver.ask(_LONG, **fields, output_config={"effort": "low"})
    assert _split(lower)[1] == 1_102


def test_caches_are_apart(driver: Driver) -> None:
    """Another key reads nothing."""
    body = {"system": _system(), "max_tokens": 10, "messages": [user("Hi")]}
    request = {"model": "claude-haiku-5-5", **body}
    driver.plan(request)
    driver.plan(request, Authorization="Bearer another")
    assert [line["usage"]["cache_read_input_tokens"] for line in driver.lines] == [0, 0]


def test_an_answer_under_way_cannot_be_read(driver: Driver) -> None:
    """Requests sent before the first answer has begun write their own copy each."""
    driver.faults({"kind": "latency", "delay_s": 2}, {"kind": "none", "repeat": 2})
    driver.ask("Hi", system=_system())
    assert _split(driver.ask("Hi", system=_system()))[2] == 1_102
    driver.clock.advance(2)
    assert _split(driver.ask("Hi", system=_system()))[1] == 1_102


def test_errors_write_nothing(driver: Driver) -> None:
    """A request that failed leaves no entry behind."""
    driver.faults({"kind": "overloaded"})
    driver.plan(
        {
            "model": "claude-haiku-5-5",
            "max_tokens": 9,
            "system": _system(),
            "messages": [user("Hi")],
        }
    )
    assert _split(driver.ask("Hi", system=_system()))[1] == 0


def test_prefill_only_request_warms_the_cache(driver: Driver) -> None:
    """max_tokens 0 writes the cache, answers nothing and bills no output."""
    answer = driver.ask("Hi", system=_system(), max_tokens=0)
    assert (answer["content"], answer["stop_reason"]) == ([], "max_tokens")
    assert (answer["usage"]["output_tokens"], _split(answer)[2]) == (0, 1_102)
    assert _split(driver.ask("Hi", system=_system()))[1] == 1_102


def _marked_blocks(*ttls: str) -> list[dict[str, Any]]:
    marks = [{"type": "ephemeral", "ttl": ttl} for ttl in ttls]
    return [{"type": "text", "text": "x", "cache_control": mark} for mark in marks]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"system": _marked_blocks(*["5m"] * 5)}, "A maximum of 4 blocks"),
        ({"system": _marked_blocks(*["5m"] * 4), "cache_control": _MARK}, "A maximum of 4 blocks"),
        ({"system": _marked_blocks("5m", "1h")}, "must not come after"),
        ({"system": _marked_blocks("2h")}, "ttl"),
        ({"cache_control": {"type": "eternal"}}, "ephemeral"),
        (
            {"messages": [user(_marked_blocks("1h"))], "cache_control": _MARK},
            "marker of another ttl",
        ),
        (
            {
                "messages": [
                    user("a"),
                    assistant([{"type": "redacted_thinking", "data": "x", "cache_control": _MARK}]),
                    user("b"),
                ]
            },
            "cannot be set",
        ),
    ],
)
def test_rules_of_markers(driver: Driver, fields: dict[str, Any], words: str) -> None:
    """Too many markers, a short life before a long one, an unknown life: 400."""
    status, message = driver.refusal(**fields)
    assert status == 400
    assert words in message


def test_entries_are_bounded() -> None:
    """The cache forgets the expired first, then the oldest, and never outgrows its limit."""
    cache = PromptCache()
    for number in range(ENTRY_LIMIT + 1):
        cache.commit(CachePlan(Meters(), ((str(number).encode(), "5m"),)), number, number)
    assert len(cache.entries) <= ENTRY_LIMIT
    assert str(ENTRY_LIMIT).encode() in cache.entries
    assert b"0" not in cache.entries
