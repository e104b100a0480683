"""Bodies that are refused: what is wrong is said, nothing is kept, nothing leaks."""

from collections.abc import AsyncIterator

import pytest

from app.api.bodies import METADATA_LIMIT, TEXT_LIMIT_BYTES, TOOLS_LIMIT
from app.api.strict import BODY_LIMIT_BYTES
from tests.support.service import Running

JSON = {"content-type": "application/json"}
INVALID = "urn:bursar:problem:invalid-request"


def _with(name: str, value: str) -> bytes:
    return f'{{"task":"Say hello.","{name}":{value}}}'.encode()


UNREADABLE = {
    "empty": b"",
    "cut off": b'{"task":',
    "a list": b"[]",
    "a text": b'"task"',
    "null": b"null",
    "not UTF-8": b'{"task":"\xff"}',
    "UTF-16": '{"task":"x"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"task":"x"}',
    "a comment": b'{"task":"x"} // yes',
    "two values": b'{"task":"x"}{}',
    "a key twice": b'{"task":"x","task":"y"}',
    "a nested key twice": _with("metadata", '{"a":"1","a":"2"}'),
    "NaN": _with("budget_usd", "NaN"),
    "Infinity": _with("budget_usd", "Infinity"),
    "-Infinity": _with("deadline_s", "-Infinity"),
    "a huge integer": _with("budget_usd", "9" * 5_000),
    "20 digits": _with("max_steps", "1" + "0" * 19),
    "a long fraction": _with("budget_usd", "0." + "1" * 5_000),
    "an endless exponent": _with("budget_usd", "1e" + "9" * 30),
    "a negative one": _with("budget_usd", "1e-" + "9" * 30),
    "deep objects": _with("metadata", '{"a":' * 65 + "1" + "}" * 65),
    "very deep lists": _with("metadata", "[" * 100_000 + "]" * 100_000),
    "deep and never closed": _with("metadata", "[" * 100_000),
}


async def test_unreadable(bursar: Running) -> None:
    """A body that is not one strict JSON object is a 422 that says why."""
    for what, body in UNREADABLE.items():
        answer = await bursar.client.post("/tasks", content=body, headers=JSON)
        assert (answer.status_code, answer.json()["type"]) == (422, INVALID), what
        assert answer.json()["errors"][0]["field"] == "", what
    assert bursar.rows("SELECT COUNT(*) AS n FROM tasks") == [{"n": 0}]


WRONG: dict[str, list[str]] = {
    "task": [
        '""',
        '" \\n\\t"',
        "null",
        "7",
        '["x"]',
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '"a\\u0000b"',
        f'"{"x" * (TEXT_LIMIT_BYTES + 1)}"',
        f'"{"é" * (TEXT_LIMIT_BYTES // 2)}x"',
        f'"{"x" * 1_000_000}"',
    ],
    "complexity": [
        '"hard"',
        '"SIMPLE"',
        '"AUTO"',
        "1",
    ],
    "session_id": [
        '""',
        '"-a"',
        '"a b"',
        '"a/b"',
        '"a\\n"',
        '"\\ud800"',
        f'"{"a" * 129}"',
        "1",
    ],
    "budget_usd": [
        "-1",
        "-0.000000001",
        "1e999",
        "1000001",
        "1000000.000000001",
        "9999999999999999999",
        "0.0000000001",
        "1.1234567891",
        "1e-400",
        '"1"',
        '"NaN"',
        "true",
        "[1]",
    ],
    "max_steps": [
        "0",
        "101",
        "-1",
        "1.0",
        "1e1",
        '"1"',
        "true",
    ],
    "max_tokens": [
        "0",
        "128001",
        "1.5",
        "9999999999999999999",
    ],
    "system": [
        '"a\\u0000"',
        '"\\ud800"',
        f'"{"x" * (TEXT_LIMIT_BYTES + 1)}"',
        "1",
    ],
    "model": [
        '""',
        '"a b"',
        '"claude-haiku-5-5\\n"',
        f'"{"a" * 129}"',
    ],
    "tools": [
        '"calculator"',
        "null",
        "{}",
        str(["calculator"] * (TOOLS_LIMIT + 1)).replace("'", '"'),
    ],
    "priority": [
        "-1",
        "10",
        "null",
        "1.0",
        "false",
    ],
    "deadline_s": [
        "0",
        "-1",
        "604800.1",
        "1e400",
        "1e-400",
        '"1"',
        "true",
    ],
    "metadata": [
        "null",
        "[]",
    ],
}


@pytest.mark.parametrize("name", WRONG)
async def test_wrong_values(bursar: Running, name: str) -> None:
    """A value out of bounds or of the wrong type names its field, and no task is made."""
    for value in WRONG[name]:
        body = f'{{"task":{value}}}'.encode() if name == "task" else _with(name, value)
        answer = await bursar.client.post("/tasks", content=body, headers=JSON)
        assert answer.status_code == 422, value[:60]
        assert answer.json()["type"] == INVALID, value[:60]
        # An item of a list is named by its place: tools.0
        fields = {error["field"].partition(".")[0] for error in answer.json()["errors"]}
        assert fields == {name}, value[:60]
    assert bursar.rows("SELECT COUNT(*) AS n FROM tasks") == [{"n": 0}]


WRONG_METADATA: dict[str, str] = {
    "a number": '{"a":1}',
    "null": '{"a":null}',
    "an object": '{"a":{}}',
    "an empty name": '{"":"x"}',
    "a long name": f'{{"{"k" * 65}":"x"}}',
    "a long text": f'{{"a":"{"v" * 513}"}}',
    "a NUL": '{"a":"\\u0000"}',
    "a NUL in a name": '{"\\u0000":"a"}',
    "a lone surrogate": '{"a":"\\ud800"}',
    "a lone surrogate in a name": '{"\\ud800":"a"}',
    "too many": str({str(n): "" for n in range(METADATA_LIMIT + 1)}).replace("'", '"'),
}


async def test_wrong_metadata(bursar: Running) -> None:
    """Metadata is text by text, within its bounds."""
    for what, value in WRONG_METADATA.items():
        answer = await bursar.client.post("/tasks", content=_with("metadata", value), headers=JSON)
        assert (answer.status_code, answer.json()["type"]) == (422, INVALID), what
        assert answer.json()["errors"][0]["field"].startswith("metadata"), what


async def test_unknown_fields(bursar: Running) -> None:
    """A field nobody knows is a mistake, not a thing to overlook; every one of them is named."""
    answer = await bursar.client.post(
        "/tasks", json={"task": "x", "max_step": 3, "temperature": 1, "owner": "root"}
    )
    assert answer.status_code == 422
    fields = {error["field"] for error in answer.json()["errors"]}
    assert fields == {"max_step", "temperature", "owner"}


async def test_the_task_is_needed(bursar: Running) -> None:
    """Without a task there is nothing to do."""
    answer = await bursar.client.post("/tasks", json={"complexity": "simple"})
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"field": "task", "message": "Field required"}]


async def test_an_unknown_tool(bursar: Running) -> None:
    """The answer names the tool and those there are."""
    answer = await bursar.client.post("/tasks", json={"task": "x", "tools": ["shell"]})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:bursar:problem:unknown-tools")
    assert answer.json()["errors"][0]["field"] == "tools"
    for word in ("'shell'", "calculator", "current_time", "text_stats"):
        assert word in answer.json()["detail"]


async def test_a_tool_twice(bursar: Running) -> None:
    """The provider refuses a tool that is offered twice; so do we, before anything is spent."""
    answer = await bursar.client.post(
        "/tasks", json={"task": "x", "tools": ["calculator", "calculator"]}
    )
    assert answer.status_code == 422


async def test_an_unknown_model(bursar: Running) -> None:
    """A model without a price is refused, and the answer shows how to add one."""
    answer = await bursar.client.post("/tasks", json={"task": "x", "model": "gpt-9"})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:bursar:problem:unknown-model")
    assert '[models."gpt-9"]' in answer.json()["detail"]


@pytest.mark.parametrize(
    "media", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/vnd.x+json"]
)
async def test_other_media_types(bursar: Running, media: str | None) -> None:
    """Only JSON, and it must say so: a browser form can send everything else across sites."""
    headers = {} if media is None else {"content-type": media}
    for method, path in (("POST", "/tasks"), ("PUT", "/sessions/s/budget")):
        answer = await bursar.client.request(method, path, content=b'{"task":"x"}', headers=headers)
        assert answer.status_code == 415
        assert answer.json()["type"] == "urn:bursar:problem:unsupported-media-type"


async def _in_chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 4_096 + 1):
        yield b" " * 4_096


@pytest.mark.parametrize("declared", [True, False])
async def test_oversized_bodies(bursar: Running, declared: bool) -> None:
    """A body beyond the limit is a 413, whether or not it says its length."""
    content = b" " * (BODY_LIMIT_BYTES + 1) if declared else _in_chunks(BODY_LIMIT_BYTES)
    answer = await bursar.client.post("/tasks", content=content, headers=JSON)
    assert answer.status_code == 413
    assert answer.json()["type"] == "urn:bursar:problem:body-too-large"


async def test_the_largest_body(bursar: Running) -> None:
    """A body of exactly the limit is read."""
    head = b'{"task":"x"'
    body = head + b" " * (BODY_LIMIT_BYTES - len(head) - 1) + b"}"
    assert len(body) == BODY_LIMIT_BYTES
    answer = await bursar.client.post("/tasks", content=body, headers=JSON)
    assert answer.status_code == 202
