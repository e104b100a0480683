"""Token counts: deterministic, and never above the bytes counted plus the documented overheads."""

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from app.simulator.models import MODELS
from app.simulator.prompt import prompt_tokens
from app.simulator.tokens import BLOCK_OVERHEAD, MESSAGE_OVERHEAD, text_tokens
from tests.unit.simulator.driving import CALCULATOR, MODEL, Driver, asking, assistant, user

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)


def test_four_bytes_are_one_token() -> None:
    """A token stands for four UTF-8 bytes begun."""
    assert [text_tokens(text) for text in ("", "a", "abcd", "abcde", "ééé")] == [0, 1, 1, 2, 2]


@given(texts=st.lists(_TEXT, min_size=1, max_size=5), value=_TEXT)
def test_prompt_stays_below_its_bytes(texts: list[str], value: str) -> None:
    """A prompt's count stays below its bytes plus overheads, whatever the text."""
    call = {"type": "tool_use", "id": "toolu_1", "name": "calculator", "input": {"q": value}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": value}
    request = asking(
        [*map(user, texts), assistant([call]), user([result])], tools=[CALCULATOR], system=texts[0]
    )
    model = MODELS[MODEL]
    blocks, messages = len(texts) + 4, len(texts) + 2
    payload = [*texts, texts[0], value, value]
    size = sum(len(text.encode()) for text in payload) + len(orjson.dumps([call, CALCULATOR]))
    bound = size + blocks * BLOCK_OVERHEAD + messages * MESSAGE_OVERHEAD + model.tool_prompt
    assert prompt_tokens(request, model) <= bound


def test_count_tokens_agrees_with_usage(driver: Driver) -> None:
    """The count endpoint states what the answer's usage will."""
    request = asking("How are you?", tools=[CALCULATOR], system="Be brief.")
    del request["max_tokens"]
    body = orjson.dumps(request)
    reply = driver.simulator.reply(
        "POST", "/v1/messages/count_tokens", {"x-api-key": "not-a-key"}, body
    )
    counted: dict[str, Any] = orjson.loads(b"".join(reply.pieces))
    answer = driver.ask("How are you?", tools=[CALCULATOR], system="Be brief.")
    assert counted == {"input_tokens": answer["usage"]["input_tokens"]}
    assert len(driver.lines) == 1


def test_next_prompt_is_bounded_by_this_one(driver: Driver) -> None:
    """prompt + output + bytes of what was added bounds the next prompt, hidden thinking included."""
    question = user('[[sim {"steps": 1, "thinking": true, "thinking_tokens": 500}]] Go')
    first = driver.ask([question], model="claude-opus-5-5", tools=[CALCULATOR])
    call_id = first["content"][-1]["id"]
    result = user([{"type": "tool_result", "tool_use_id": call_id, "content": "84"}])
    second = driver.ask(
        [question, assistant(first["content"]), result],
        model="claude-opus-5-5",
        tools=[CALCULATOR],
    )
    before, after = first["usage"], second["usage"]
    assert before["output_tokens_details"] == {"thinking_tokens": 500}
    low = before["input_tokens"] + before["output_tokens"]
    assert low <= after["input_tokens"] <= low + len("84") + 20
