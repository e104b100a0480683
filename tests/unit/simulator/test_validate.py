"""Requests the API refuses: status, and the words a client may look for."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.simulator.driving import (
    CALCULATOR,
    KEY,
    MODEL,
    Driver,
    asking,
    assistant,
    read,
    tool,
    user,
)

_CALL = {"type": "tool_use", "id": "toolu_1", "name": "calculator", "input": {}}
_CALL_2 = {**_CALL, "id": "toolu_2"}
_RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "84"}
_RESULT_2 = {**_RESULT, "tool_use_id": "toolu_2"}
_TEXT = {"type": "text", "text": "well"}
_ASK = user("What is 12 * 7?")
_UNANSWERED = "`tool_use` ids were found without `tool_result` blocks immediately after"


@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k"])
def test_sampling_parameters(driver: Driver, name: str) -> None:
    """Sampling parameters are refused even at their default values."""
    status, message = driver.refusal(**{name: 1})
    assert status == 400
    assert name in message


@pytest.mark.parametrize("name", ["model", "max_tokens", "messages"])
def test_required_fields(driver: Driver, name: str) -> None:
    """Each required field is missed by name."""
    request = asking()
    del request[name]
    reply = driver.plan(request)
    assert (reply.status, read(reply)["error"]["message"]) == (400, f"{name}: Field required")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"colour": "red"}, "Extra inputs are not permitted"),
        ({"max_tokens": -1}, "greater than or equal to 0"),
        ({"max_tokens": 1.5}, "valid integer"),
        ({"max_tokens": True}, "valid integer"),
        ({"max_tokens": 128_001}, "128001 > 128000, which is the maximum allowed number"),
        ({"max_tokens": 64_001, "model": "claude-haiku-4-5"}, "64001 > 64000"),
        ({"max_tokens": 0, "stream": True}, "max_tokens: 0"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"stop_sequences": [" "]}, "non-whitespace"),
        ({"system": 5}, "system"),
        ({"system": [{"type": "text", "text": ""}]}, "non-empty"),
        ({"stream": "yes"}, "stream"),
        ({"speed": "fast"}, "fast mode"),
        ({"inference_geo": "eu"}, "inference_geo"),
        ({"inference_geo": "us", "model": "claude-haiku-4-5"}, "does not support"),
        ({"output_config": {"effort": "frantic"}}, "effort"),
        ({"tools": [CALCULATOR, CALCULATOR]}, "unique"),
        ({"tools": [{"name": "a b", "input_schema": {"type": "object"}}]}, "pattern"),
        ({"tools": [{"name": "bare"}]}, "input_schema"),
        ({"tools": [{"name": "a", "input_schema": {"type": "string"}}]}, "'object'"),
        ({"tool_choice": {"type": "auto"}}, "while providing tools"),
        ({"tools": [CALCULATOR], "tool_choice": {"type": "tool", "name": "b"}}, "not found"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2_000}}, "does not support 'enabled'"),
        ({"thinking": {"type": "disabled"}, "model": "claude-opus-5-5"}, "always thinks"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
    ],
)
def test_bad_fields(driver: Driver, fields: dict[str, Any], words: str) -> None:
    """A field the API would not take is a 400 that names it."""
    status, message = driver.refusal(**fields)
    assert status == 400
    assert words in message


@pytest.mark.parametrize(
    ("budget", "words"), [(1_000, "1024"), (2_000, "must be greater"), (None, "Field required")]
)
def test_thinking_budget(driver: Driver, budget: int | None, words: str) -> None:
    """A thinking budget has a floor, and stays below max_tokens."""
    thinking = {"type": "enabled", "budget_tokens": budget}
    status, message = driver.refusal(model="claude-sonnet-4-6", max_tokens=2_000, thinking=thinking)
    assert status == 400
    assert words in message


@pytest.mark.parametrize("kind", ["any", "tool"])
@pytest.mark.parametrize(
    ("model", "status"),
    [("claude-opus-5-5", 400), ("claude-sonnet-5-5", 400), (MODEL, 200), ("claude-opus-5", 200)],
)
def test_forced_tool_use(driver: Driver, kind: str, model: str, status: int) -> None:
    """The newest large models do not let a call be forced; others make it."""
    choice = {"type": kind, "name": "calculator"} if kind == "tool" else {"type": kind}
    reply = driver.plan(asking(model=model, tools=[CALCULATOR], tool_choice=choice))
    assert reply.status == status
    if status == 200:
        assert read(reply)["content"][0]["name"] == "calculator"


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "at least one message"),
        ([assistant("hi"), user("ho")], 'must use the "user" role'),
        ([{"role": "tool", "content": "x"}], "Unexpected role"),
        ([user("x"), {"role": "system", "content": "x"}], "Unexpected role"),
        ([{"content": "x"}], "role: Field required"),
        ([{"role": "user"}], "content: Field required"),
        (["text"], "should be an object"),
        ([user("")], "non-empty content"),
        ([user([])], "non-empty content"),
        ([user([{"type": "text", "text": ""}])], "text content blocks must be non-empty"),
        ([user([{"type": "text"}])], "valid string"),
        ([user([{"text": "x"}])], "type: Field required"),
        ([user([{"type": "hologram"}])], "not allowed"),
        ([user([_CALL])], "not allowed"),
        ([_ASK, assistant([_RESULT]), user("x")], "can only be in user messages"),
        ([_ASK, assistant([{"type": "document"}]), user("x")], "not allowed"),
        ([user([{**_TEXT, "citations": [{}]}])], "citations"),
        ([_ASK, assistant("The answer is")], "does not support assistant message prefill"),
        ([_ASK, assistant([_CALL])], _UNANSWERED),
        ([_ASK, assistant([_CALL]), user("never mind")], _UNANSWERED),
        ([_ASK, assistant([_CALL, _CALL_2]), user([_RESULT])], f"{_UNANSWERED}: toolu_2"),
        ([_ASK, assistant([_CALL]), assistant("hm"), user("x")], _UNANSWERED),
        ([user([_RESULT])], "unexpected `tool_use_id` found"),
        ([_ASK, assistant([_CALL]), user([_RESULT_2])], "unexpected `tool_use_id` found"),
        ([_ASK, assistant([_CALL]), user([_RESULT, _RESULT])], "single result"),
        ([_ASK, assistant([_CALL]), user([_TEXT, _RESULT])], "must come first"),
        ([_ASK, assistant([_CALL, _CALL]), user([_RESULT])], "must be unique"),
        ([_ASK, assistant([{**_CALL, "input": "x"}]), user([_RESULT])], "input"),
    ],
)
def test_bad_conversations(driver: Driver, messages: list[Any], words: str) -> None:
    """A conversation of the wrong shape is a 400 in the API's words."""
    request = {"model": MODEL, "max_tokens": 9, "messages": messages}
    reply = driver.plan(request)
    assert reply.status == 400
    assert words in read(reply)["error"]["message"]


@pytest.mark.parametrize(
    "messages",
    [
        [_ASK, user("and quickly")],
        [_ASK, assistant([_CALL, _CALL_2]), user([_RESULT_2, _RESULT, _TEXT])],
        [_ASK, assistant([_CALL, _CALL_2]), user([_RESULT]), user([_RESULT_2])],
        [_ASK, assistant([_CALL]), user([_RESULT]), assistant("84."), user("Thanks")],
    ],
)
def test_good_conversations(driver: Driver, messages: list[Any]) -> None:
    """Consecutive turns of one role are merged; results may come in any order, text after them."""
    assert driver.plan(asking(messages)).status == 200


def test_models_of_4_5_take_prefill(driver: Driver) -> None:
    """The last models that let the answer be begun for them still do."""
    turns = [_ASK, assistant("The answer is")]
    assert driver.ask(turns, model="claude-haiku-4-5")["stop_reason"] == "end_turn"


def test_models_that_take_system_turns(driver: Driver) -> None:
    """Opus 5 takes a system message in mid-conversation."""
    turns = [_ASK, {"role": "system", "content": "Be brief."}]
    assert driver.ask(turns, model="claude-opus-5")["stop_reason"] == "end_turn"


@pytest.mark.parametrize("model", ["claude-opus-4-1", "claude-mythos-preview", "gpt-4", ""])
def test_unknown_and_retired_models(driver: Driver, model: str) -> None:
    """A model nobody sells is a 404."""
    assert driver.refusal(model=model) == (404, f"model: {model}")


def test_aliases_answer_with_the_dated_name(driver: Driver) -> None:
    """A response names the snapshot an alias stands for."""
    assert driver.ask(model="claude-haiku-4-5")["model"] == "claude-haiku-4-5-20251001"


def test_prompt_too_long(driver: Driver) -> None:
    """A prompt above the window is a 400; one that leaves less room than max_tokens is taken."""
    status, message = driver.refusal("x" * 800_100, model="claude-haiku-4-5")
    assert (status, message) == (400, "prompt is too long: 200030 tokens > 200000 maximum")
    tight = driver.ask(f'[[sim {{"answer_tokens": 500}}]]{"x" * 799_000}', model="claude-haiku-4-5")
    assert tight["stop_reason"] == "model_context_window_exceeded"
    usage = tight["usage"]
    assert usage["input_tokens"] + usage["output_tokens"] == 200_000


@pytest.mark.parametrize(
    "headers", [{"authorization": "Bearer k"}, {"X-API-Key": "k"}, {"AUTHORIZATION": "bearer k"}]
)
def test_keys_that_open(driver: Driver, headers: dict[str, str]) -> None:
    """Any Bearer token or x-api-key is taken, whatever the header's case."""
    body = orjson.dumps(asking())
    assert driver.simulator.reply("POST", "/v1/messages", headers, body).status == 200


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer "}, {"x-api-key": " "}, {"authorization": "Basic k"}]
)
def test_no_key(driver: Driver, headers: dict[str, str]) -> None:
    """Without a key: 401."""
    reply = driver.simulator.reply("POST", "/v1/messages", headers, orjson.dumps(asking()))
    assert (reply.status, read(reply)["error"]["type"]) == (401, "authentication_error")


def test_bodies_that_are_no_request(driver: Driver) -> None:
    """Not JSON, not an object, too large: 400, 400, 413."""
    replies = [
        driver.simulator.reply("POST", "/v1/messages", KEY, body)
        for body in (b"{", b'"\\ud800"', b"[]", b" " * (32 * 1024 * 1024 + 1))
    ]
    assert [reply.status for reply in replies] == [400, 400, 400, 413]
    assert read(replies[-1])["error"]["type"] == "request_too_large"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/messages", 405), ("POST", "/v1/complete", 404)]
)
def test_other_endpoints(driver: Driver, method: str, path: str, status: int) -> None:
    """There are two endpoints."""
    assert driver.simulator.reply(method, path, KEY, b"{}").status == status


def test_errors_are_not_billed(driver: Driver) -> None:
    """A refused request leaves no line, and carries its id in body and header."""
    reply = driver.plan(asking(temperature=1))
    assert driver.lines == []
    assert read(reply)["request_id"] == reply.headers["request-id"]


def test_nesting_beyond_reason(driver: Driver) -> None:
    """A value nested deeper than can be counted is a 400, not a crash."""
    deep: dict[str, Any] = {}
    for _ in range(300):
        deep = {"a": deep}
    turns = [_ASK, assistant([{**_CALL, "input": deep}]), user([_RESULT])]
    body = str(asking(turns)).replace("'", '"').encode()
    assert driver.simulator.reply("POST", "/v1/messages", KEY, body).status == 400


_SCALARS = st.none() | st.booleans() | st.integers(-5, 2**40) | st.text(max_size=5)
_WORDS = st.sampled_from(
    ["type", "text", "user", "assistant", "tool_use", "id", "name", "ephemeral"]
)
_ANY = st.recursive(
    _SCALARS | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=4),
    max_leaves=8,
)
_FIELDS = [
    "model", "max_tokens", "messages", "system", "tools", "tool_choice", "thinking", "speed",
    "stop_sequences", "output_config", "cache_control", "inference_geo", "stream",
]  # fmt: skip
_BLOCK_FIELDS = [
    "type", "text", "id", "name", "input", "tool_use_id", "content", "source", "signature",
    "thinking", "cache_control", "citations",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(changes=st.dictionaries(st.sampled_from(_FIELDS), _ANY, min_size=1, max_size=3))
def test_no_request_is_a_crash(changes: dict[str, Any]) -> None:
    """Whatever a field holds, there is a reply."""
    request = {**asking(tools=[tool("x")]), **changes}
    assert Driver().plan(request).status in {200, 400, 404}


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(
        ["text", "tool_use", "tool_result", "thinking", "document", "image", "server_tool_use", "x"]
    ),
    changes=st.dictionaries(st.sampled_from(_BLOCK_FIELDS), _ANY, max_size=4),
    role=st.sampled_from([user, assistant]),
)
def test_no_block_is_a_crash(kind: str, changes: dict[str, Any], role: Any) -> None:
    """Whatever a content block holds, there is a reply."""
    block = {"type": kind, "text": "x", "id": "a", "name": "b", "input": {}, **changes}
    turns = [user("x"), role([block]), user("y")]
    assert Driver().plan(asking(turns, cache_control={"type": "ephemeral"})).status in {200, 400}


@settings(max_examples=200, deadline=None)
@given(schema=_ANY)
def test_no_schema_is_a_crash(schema: Any) -> None:
    """Whatever an input schema says, there is a reply."""
    odd = {
        "name": "odd",
        "input_schema": {"type": "object", "required": ["a"], "properties": schema},
    }
    asked = Driver().plan(asking('[[sim {"steps": 1}]]', tools=[odd]))
    assert asked.status in {200, 400}
