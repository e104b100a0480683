"""Faults: which rule strikes whom, what it does to the reply, what it does to the bill."""

import zlib
from typing import Any

import pytest

from app.simulator.reply import Ending
from tests.unit.simulator.driving import Driver, asking, events, read, user


def _statuses(driver: Driver, count: int, **fields: Any) -> list[int]:
    return [driver.plan(asking(**fields)).status for _ in range(count)]


def test_a_script_is_used_up_in_order(driver: Driver) -> None:
    """Each request takes the next rule; `none` lets one pass; then all is well again."""
    driver.faults({"kind": "overloaded", "repeat": 2}, {"kind": "none"}, {"kind": "server_error"})
    assert _statuses(driver, 5) == [529, 529, 200, 500, 200]
    shown = driver.control("GET", "faults")[1]
    assert [rule["used"] for rule in shown["script"]] == [2, 1, 1]


def test_rules_choose_their_requests(driver: Driver) -> None:
    """A rule may wait for a model, or for a text in the prompt."""
    driver.faults(
        {"kind": "server_error", "model": "claude-opus-5-5"},
        {"kind": "overloaded", "prompt_contains": "secret word"},
    )
    assert _statuses(driver, 2) == [200, 200]
    result = [{"type": "text", "text": "the secret word is"}]
    assert _statuses(driver, 2, messages=[user(result)]) == [529, 200]
    assert _statuses(driver, 2, model="claude-opus-5-5") == [500, 200]


def test_rules_about_streams_wait_for_one(driver: Driver) -> None:
    """A rule that cuts streams leaves plain requests alone, and the other way round."""
    driver.faults({"kind": "cut_mid_stream"}, {"kind": "truncate_json"})
    endings = [driver.plan(asking(stream=stream)).ending for stream in (False, True, False)]
    assert endings == [Ending.SHORT, Ending.CUT, Ending.WHOLE]


def test_only_sound_requests_use_a_rule_up(driver: Driver) -> None:
    """A request that is refused anyway leaves the script where it is."""
    driver.faults({"kind": "overloaded"})
    assert driver.refusal(temperature=1)[0] == 400
    assert _statuses(driver, 1) == [529]


def _drawn(seed: int) -> list[int]:
    driver = Driver()
    driver.faults(random=[{"kind": "overloaded", "probability": 0.3}], seed=seed)
    return _statuses(driver, 200)


def test_chance_repeats_with_its_seed() -> None:
    """The same seed strikes the same requests; another seed others; about as many as asked for."""
    assert _drawn(1) == _drawn(1)
    assert _drawn(1) != _drawn(2)
    assert 40 <= _drawn(1).count(529) <= 80


def test_random_latency_adds_up(driver: Driver) -> None:
    """A latency for everybody does not hide the other faults."""
    driver.faults(
        random=[
            {"kind": "latency", "delay_s": [0.1, 0.2]},
            {"kind": "latency", "delay_s": 1},
            {"kind": "overloaded"},
        ]
    )
    replies = [driver.plan(asking()) for _ in range(20)]
    assert {reply.status for reply in replies} == {529}
    assert all(1.1 <= reply.delay_s < 1.2 for reply in replies)
    assert len({reply.delay_s for reply in replies}) > 1


@pytest.mark.parametrize(
    ("rule", "status", "error_type"),
    [
        ({"kind": "rate_limit"}, 429, "rate_limit_error"),
        ({"kind": "overloaded"}, 529, "overloaded_error"),
        ({"kind": "server_error"}, 500, "api_error"),
        ({"kind": "spend_cap"}, 429, "rate_limit_error"),
    ],
)
def test_errors(driver: Driver, rule: dict[str, Any], status: int, error_type: str) -> None:
    """An error fault has the API's shape, no retry-after of its own, and costs nothing."""
    driver.faults({**rule, "message": "No."})
    reply = driver.plan(asking())
    error = read(reply)["error"]
    assert (reply.status, error["type"], error["message"]) == (status, error_type, "No.")
    assert not {"retry-after", "x-should-retry"} & set(reply.headers)
    assert driver.lines == []


def test_error_details(driver: Driver) -> None:
    """Errors carry what the rule says: retry-after, x-should-retry, the spend cap its code."""
    driver.faults(
        {"kind": "rate_limit", "retry_after": 0.1, "should_retry": True},
        {"kind": "overloaded", "retry_after": 3600, "should_retry": False, "delay_s": 2},
        {"kind": "spend_cap"},
    )
    soon, late, capped = (driver.plan(asking()) for _ in range(3))
    assert (soon.headers["retry-after"], soon.headers["x-should-retry"]) == ("0.1", "true")
    assert (late.headers["retry-after"], late.headers["x-should-retry"]) == ("3600", "false")
    assert late.delay_s == 2
    details = read(capped)["error"]["details"]
    assert details == {"error_code": "enforced_spend_limit_reached"}


@pytest.mark.parametrize(
    ("kind", "stream", "ending"),
    [
        ("timeout", False, Ending.SILENT),
        ("cut_before_headers", False, Ending.SILENT),
        ("cut_before_headers", True, Ending.SILENT),
        ("cut_mid_body", False, Ending.CUT),
        ("cut_mid_stream", True, Ending.CUT),
        ("truncate_json", False, Ending.SHORT),
        ("stream_error", True, Ending.SHORT),
        ("stream_eof", True, Ending.SHORT),
    ],
)
def test_lost_answers_are_billed(driver: Driver, kind: str, stream: bool, ending: Ending) -> None:
    """What was generated is billed although it never arrived whole; `billed` can say otherwise."""
    driver.faults({"kind": kind}, {"kind": kind, "billed": False})
    first, second = driver.plan(asking(stream=stream)), driver.plan(asking(stream=stream))
    assert first.ending is second.ending is ending
    (line,) = driver.lines
    assert line["status"] == "cut"
    assert line["nano"] > 0
    assert line["request_id"] == first.headers["request-id"]
    total = driver.control("GET", "bill?lines=0")[1]["total"]
    assert (total["cut_lines"], total["cut_nano"]) == (1, line["nano"])


def test_a_timeout_hangs_for_minutes(driver: Driver) -> None:
    """A timeout is silent for ten minutes unless it says how long."""
    driver.faults({"kind": "timeout"}, {"kind": "timeout", "delay_s": 5})
    assert [driver.plan(asking()).delay_s for _ in range(2)] == [600, 5]


def test_stream_faults(driver: Driver) -> None:
    """A stream can end in an error event, or just end."""
    driver.faults({"kind": "stream_error"}, {"kind": "stream_eof"})
    failed = events(driver.plan(asking(stream=True)))
    ended = events(driver.plan(asking(stream=True)))
    assert failed[0]["type"] == ended[0]["type"] == "message_start"
    assert failed[-1]["error"]["type"] == "overloaded_error"
    assert not {"message_stop", "message_delta"} & {event["type"] for event in ended}


def test_html_page(driver: Driver) -> None:
    """A proxy's page is no JSON; it is billed only when the rule says so."""
    driver.faults({"kind": "html_page"}, {"kind": "html_page", "status": 200, "billed": True})
    first, second = driver.plan(asking()), driver.plan(asking())
    assert (first.status, second.status) == (502, 200)
    for reply in (first, second):
        assert reply.headers["content-type"] == "text/html"
        assert reply.pieces[0].startswith(b"<html>")
    assert len(driver.lines) == 1


def test_slow_body(driver: Driver) -> None:
    """A slow answer comes in pieces with a pause between; together they are the answer."""
    driver.faults({"kind": "slow_body", "pieces": 4, "delay_s": 0.5}, {"kind": "slow_body"})
    plain, stream = driver.plan(asking()), driver.plan(asking(stream=True))
    assert (len(plain.pieces), plain.pause_s, plain.delay_s) == (4, 0.5, 0)
    assert read(plain)["type"] == "message"
    assert stream.pause_s == 0.1
    assert events(stream)[-1]["type"] == "message_stop"


def test_stops_by_rule(driver: Driver) -> None:
    """A rule can end any answer as a directive could."""
    driver.faults({"kind": "refusal"}, {"kind": "stop", "stop": "empty"})
    assert driver.ask()["stop_reason"] == "refusal"
    assert driver.lines == []
    assert driver.ask()["content"] == []
    assert len(driver.lines) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["usage_missing", "usage_null", "usage_negative"])
def test_usage_that_lies(driver: Driver, kind: str, stream: bool) -> None:
    """The answer's usage is unusable; the bill knows the truth."""
    truth = driver.ask()["usage"]
    driver.faults({"kind": kind})
    reply = driver.plan(asking(stream=stream))
    shown = events(reply)[0]["message"] if stream else read(reply)
    usage = shown.get("usage", "missing")
    expected = {"usage_missing": None, "usage_null": None, "usage_negative": -9}[kind]
    if kind == "usage_missing":
        assert usage == "missing"
    else:
        assert usage["input_tokens"] == expected
    honest, lied = driver.lines
    assert lied["nano"] == honest["nano"]
    assert lied["usage"]["input_tokens"] == truth["input_tokens"] == 8


def test_usage_beyond_every_bound(driver: Driver) -> None:
    """usage_times is a generation that really cost that much: answer and bill agree."""
    truth = driver.ask()["usage"]
    driver.faults({"kind": "usage_times", "factor": 20})
    dear = driver.ask()["usage"]
    assert dear["output_tokens"] == 20 * truth["output_tokens"]
    first, second = driver.lines
    assert second["nano"] == 20 * first["nano"]


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ([], "faults must be an object"),
        ({"rules": []}, "faults has no field 'rules'"),
        ({"seed": "x"}, "seed must be a whole number."),
        ({"script": {}}, "script must be a list"),
        ({"script": ["overloaded"]}, "script[0] must be an object with a kind."),
        ({"random": [{}]}, "random[0] must be an object with a kind."),
        ({"script": [{"kind": "explode"}]}, "script[0].kind must be one of none, rate_limit"),
        ({"script": [{"kind": []}]}, "script[0].kind must be one of"),
        ({"script": [{"kind": "none", "when": 1}]}, "script[0] has an unknown field 'when'"),
        ({"script": [{"kind": "none", "repeat": 0}]}, "repeat must be a whole number"),
        ({"random": [{"kind": "none", "probability": 2}]}, "probability must be a number"),
        ({"script": [{"kind": "latency", "delay_s": [2, 1]}]}, "delay_s must be seconds"),
        ({"script": [{"kind": "latency", "delay_s": -1}]}, "delay_s must be seconds"),
        ({"script": [{"kind": "rate_limit", "retry_after": "a\nb"}]}, "retry_after must be"),
        ({"script": [{"kind": "stop"}]}, "of kind stop needs a stop"),
        ({"script": [{"kind": "stop", "stop": "soon"}]}, "stop must be one of"),
        ({"script": [{"kind": "html_page", "status": 99}]}, "status must be an HTTP status"),
        ({"script": [{"kind": "none", "billed": 1}]}, "billed must be true or false."),
    ],
)
def test_bad_rules(driver: Driver, wanted: Any, sentence: str) -> None:
    """A bad rule is a 422 with one sentence that finds it, and changes nothing."""
    driver.faults({"kind": "overloaded"})
    status, answer = driver.control("PUT", "faults", wanted)
    assert status == 422
    assert sentence in answer["error"]["message"]
    assert "\n" not in answer["error"]["message"]
    assert driver.control("GET", "faults")[1]["script"] == [{"kind": "overloaded", "used": 0}]


def test_rules_can_be_read_back(driver: Driver) -> None:
    """What GET shows can be PUT again."""
    rule = {"kind": "rate_limit", "retry_after": "1.5", "delay_s": [0.5, 1.0], "repeat": 3}
    chance = {"kind": "latency", "delay_s": [1.0, 1.0], "probability": 0.25}
    driver.faults(rule, random=[chance], seed=9)
    shown = driver.control("GET", "faults")[1]
    assert shown == {"seed": 9, "script": [{**rule, "used": 0}], "random": [chance]}


TOOL = {"name": "calculator", "description": "Sums.", "input_schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("kind", "count", "stop"),
    [
        ("bad_tool_json", 1, "tool_use"),
        ("unknown_tool", 1, "tool_use"),
        ("huge_arguments", 1, "tool_use"),
        ("duplicate_ids", 2, "tool_use"),
        ("many_calls", 1_000, "tool_use"),
    ],
)
def test_odd_tool_calls(driver: Driver, kind: str, count: int, stop: str) -> None:
    """Only who offers tools meets them; the bill is that of an ordinary answer."""
    driver.faults({"kind": kind})
    assert driver.ask()["stop_reason"] == "end_turn"
    odd = driver.ask(tools=[TOOL])
    honest = driver.ask(tools=[TOOL])
    assert (odd["stop_reason"], len(odd["content"])) == (stop, count)
    assert odd["usage"] == honest["usage"]
    assert [line["nano"] for line in driver.lines[1:]] == [driver.lines[1]["nano"]] * 2


def test_a_gigabyte_in_a_megabyte(driver: Driver) -> None:
    """The bomb is sound gzip, and unpacks to zeros without end."""
    driver.faults({"kind": "gzip_bomb"})
    reply = driver.plan(asking())
    (body,) = reply.pieces
    assert reply.headers["content-encoding"] == "gzip"
    assert reply.length == len(body) < 1_100_000
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    size, rest = 0, body
    while rest:
        size += len(unpacker.decompress(rest, 1 << 24))
        rest = unpacker.unconsumed_tail
    assert (size, unpacker.eof) == (1 << 30, True)


def test_streams_that_are_out_of_joint(driver: Driver) -> None:
    """Everything twice; all but the ends in reverse; a report of usage that falls."""
    kinds = ("none", "duplicate_events", "reordered_events", "usage_changing")
    driver.faults(*({"kind": kind} for kind in kinds))
    replies = [driver.plan(asking(stream=True)) for _ in range(4)]
    plain, twice, turned, falling = ([e["type"] for e in events(reply)] for reply in replies)
    assert twice == [kind for kind in plain for _ in range(2)]
    assert turned == [plain[0], *reversed(plain[1:-1]), plain[-1]]
    assert falling == [*plain[:-1], "message_delta", "message_stop"]
    first, last = [e["usage"]["output_tokens"] for e in events(replies[3])[-3:-1]]
    assert last == first // 10


@pytest.mark.parametrize(
    ("rule", "stream", "ending"),
    [
        ({"kind": "stall", "delay_s": 9}, True, Ending.CUT),
        ({"kind": "endless"}, False, Ending.ENDLESS),
        ({"kind": "endless"}, True, Ending.ENDLESS),
        ({"kind": "empty_body"}, False, Ending.SHORT),
        ({"kind": "invalid_utf8"}, True, Ending.SHORT),
        ({"kind": "drip"}, False, Ending.WHOLE),
    ],
)
def test_answers_that_do_not_come_whole(
    driver: Driver, rule: dict[str, Any], stream: bool, ending: Ending
) -> None:
    """They are billed, and no wait lies before their first byte."""
    driver.faults(rule)
    reply = driver.plan(asking(stream=stream))
    assert (reply.ending, reply.delay_s, len(driver.lines)) == (ending, 0, 1)
    assert bool(reply.filling) is (ending is Ending.ENDLESS)
    assert reply.stall_s == (9 if rule["kind"] == "stall" else 0)
    assert reply.pause_s == (1 if rule["kind"] == "drip" else 0)


def test_a_cut_after_so_many_bytes(driver: Driver) -> None:
    """The connection lasts for exactly these."""
    driver.faults(*({"kind": "cut_mid_body", "after_bytes": size} for size in (0, 7, 9_999)))
    sizes = [sum(map(len, driver.plan(asking()).pieces)) for _ in range(3)]
    assert sizes[:2] == [0, 7]
    assert 100 < sizes[2] < 9_999


def test_another_name_on_the_answer(driver: Driver) -> None:
    """The bill keeps the true one."""
    driver.faults({"kind": "wrong_model"}, {"kind": "wrong_model", "echo": "claude-opus-5-5"})
    assert [driver.ask()["model"] for _ in range(2)] == ["claude-of-tomorrow", "claude-opus-5-5"]
    assert {line["model"] for line in driver.lines} == {"claude-haiku-5-5"}


@pytest.mark.parametrize(
    ("status", "kind"), [(401, "authentication_error"), (529, "overloaded_error")]
)
def test_any_status(driver: Driver, status: int, kind: str) -> None:
    """An error of the API's with the status that was asked for."""
    driver.faults({"kind": "error", "status": status})
    reply = driver.plan(asking())
    assert (reply.status, read(reply)["error"]["type"]) == (status, kind)
    assert driver.lines == []
