"""Compaction on the server: a pass of its own, billed apart, and what came before is passed over."""

import pytest

from app.simulator.compaction import BETA, SUMMARY, TRIGGER_LIMIT_TOKENS
from app.simulator.prices import PRICES, Meters
from tests.unit.simulator.driving import Driver, asking, read

MODEL = "claude-sonnet-5-5"
LONG = "word " * 48_000
HEADERS = {"anthropic-beta": BETA}


def edit(value: int = TRIGGER_LIMIT_TOKENS) -> dict[str, object]:
    """The option of a request."""
    trigger = {"type": "input_tokens", "value": value}
    return {"context_management": {"edits": [{"type": "compact_20260112", "trigger": trigger}]}}


def test_a_long_prompt_is_summarized_in_a_pass_of_its_own() -> None:
    """The top level leaves it out, the iterations have it, and the bill has both."""
    driver = Driver()
    answer = read(driver.plan(asking(LONG, model=MODEL, **edit()), **HEADERS))
    assert answer["content"][0] == {"type": "compaction", "content": SUMMARY}
    usage = answer["usage"]
    compaction, message = usage["iterations"]
    assert (compaction["type"], message["type"]) == ("compaction", "message")
    assert compaction["input_tokens"] > 60_000
    assert message["input_tokens"] < 1_000
    assert usage["input_tokens"] == message["input_tokens"]
    (line,) = driver.simulator.bill.lines
    passes = [
        Meters(input=one["input_tokens"], output=one["output_tokens"])
        for one in usage["iterations"]
    ]
    assert line.nano == -(-sum(PRICES[MODEL].times_mtok(one) for one in passes) // 1_000_000)


def test_what_came_before_a_summary_is_passed_over() -> None:
    """The next prompt has the summary instead; it is not made again."""
    driver = Driver()
    first = read(driver.plan(asking(LONG, model=MODEL, **edit()), **HEADERS))
    messages = [
        {"role": "user", "content": LONG},
        {"role": "assistant", "content": first["content"]},
        {"role": "user", "content": "Go on."},
    ]
    second = read(driver.plan(asking(messages, model=MODEL, **edit()), **HEADERS))
    assert "iterations" not in second["usage"]
    assert second["usage"]["input_tokens"] < 1_000
    assert second["content"][0]["type"] == "text"


def test_a_short_prompt_is_left_alone() -> None:
    """Below the trigger nothing happens."""
    answer = read(Driver().plan(asking("Hello", model=MODEL, **edit()), **HEADERS))
    assert "iterations" not in answer["usage"]


@pytest.mark.parametrize(("value", "headers"), [(10, HEADERS), (60_000, {})])
def test_what_is_refused(value: int, headers: dict[str, str]) -> None:
    """A low trigger, and the beta that was not asked for."""
    assert Driver().plan(asking("Hello", model=MODEL, **edit(value)), **headers).status == 400
