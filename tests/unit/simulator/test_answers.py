"""What the simulator says: deterministic, steerable, cut to its limits."""

from typing import Any

import jsonschema
import orjson
import pytest

from app.simulator.core import Simulator
from tests.unit.simulator.driving import (
    CALCULATOR,
    CURRENT_TIME,
    KEY,
    Driver,
    HandClock,
    asking,
    assembled,
    assistant,
    events,
    read,
    results,
    tool,
    user,
)

_TOOLS = [CALCULATOR, CURRENT_TIME, tool("text_stats", text={"type": "string"})]


def _sim(**fields: Any) -> str:
    return f"Please [[sim {orjson.dumps(fields).decode()}]] do it"


def _calls(answer: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    blocks = answer["content"]
    return [(block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"]


def _said(answer: dict[str, Any]) -> str:
    return "".join(block["text"] for block in answer["content"] if block["type"] == "text")


def test_same_prompt_same_answer(driver: Driver) -> None:
    """Two simulators, or one asked twice, say the same; other prompts get other words."""
    first, again = driver.ask("Why is the sky blue?"), driver.ask("Why is the sky blue?")
    assert first["content"] == again["content"]
    assert first["usage"] == again["usage"]
    assert "Why is the sky blue" in _said(first)
    assert _said(driver.ask("Why is grass green?")) != _said(first)


def test_ids_follow_seed_and_order() -> None:
    """Ids repeat with the seed, and never within a run."""
    body = orjson.dumps(asking())
    runs = [
        read(Simulator(HandClock(), seed=seed).reply("POST", "/v1/messages", KEY, body))["id"]
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]
    driver = Driver()
    assert len({driver.ask()["id"] for _ in range(50)}) == 50


def test_steps_and_parallel(driver: Driver) -> None:
    """A directive asks for rounds of parallel calls, each with fresh valid inputs, then an answer."""
    turns = [user(_sim(steps=3, parallel=2))]
    seen = []
    for _ in range(3):
        answer = driver.ask(turns, tools=_TOOLS)
        assert answer["stop_reason"] == "tool_use"
        seen += _calls(answer)
        turns += [assistant(answer["content"]), results(answer)]
    final = driver.ask(turns, tools=_TOOLS)
    assert (final["stop_reason"], _calls(final)) == ("end_turn", [])
    assert [name for name, _ in seen] == ["calculator", "current_time", "text_stats"] * 2
    assert len({orjson.dumps(call) for call in seen}) == 6
    for name, value in seen:
        schema = next(offered["input_schema"] for offered in _TOOLS if offered["name"] == name)
        jsonschema.validate(value, schema)


def test_chosen_tools_inputs_and_answer(driver: Driver) -> None:
    """A directive can name the tools, their inputs and the final words."""
    ask = _sim(steps=1, tools=["calculator"], inputs=[{"expression": "1/0"}], answer="Forty-two.")
    first = driver.ask(ask, tools=_TOOLS)
    assert _calls(first) == [("calculator", {"expression": "1/0"})]
    turns = [user(ask), assistant(first["content"]), results(first)]
    assert _said(driver.ask(turns, tools=_TOOLS)) == "Forty-two."


def test_a_sum_asks_the_calculator_once(driver: Driver) -> None:
    """Without directive, a sum in the question is worked out with the calculator, and reported."""
    question = user("What is 12*7?")
    first = driver.ask([question], tools=_TOOLS)
    assert _calls(first) == [("calculator", {"expression": "12*7"})]
    turns = [question, assistant(first["content"]), results(first, "84")]
    assert _said(driver.ask(turns, tools=_TOOLS)) == "12*7 = 84."


def test_the_time_asks_the_clock(driver: Driver) -> None:
    """Without directive, a question for the time is put to current_time."""
    assert _calls(driver.ask("What time is it?", tools=_TOOLS))[0][0] == "current_time"


def test_other_questions_call_nothing(driver: Driver) -> None:
    """No sum, no tools, tools switched off: no call."""
    assert _calls(driver.ask("Who are you?", tools=_TOOLS)) == []
    assert _calls(driver.ask("What is 12*7?")) == []
    off = driver.ask("What is 12*7?", tools=_TOOLS, tool_choice={"type": "none"})
    assert _calls(off) == []


def test_parallel_calls_can_be_switched_off(driver: Driver) -> None:
    """disable_parallel_tool_use leaves one call a turn."""
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    answer = driver.ask(_sim(steps=1, parallel=5), tools=_TOOLS, tool_choice=choice)
    assert len(_calls(answer)) == 1


def test_inputs_fit_any_schema(driver: Driver) -> None:
    """For unknown tools a minimal instance of the schema is made."""
    schema = {
        "type": "object",
        "$defs": {"colour": {"enum": ["red", "blue"]}},
        "properties": {
            "colour": {"$ref": "#/$defs/colour"},
            "count": {"type": "integer", "minimum": 3, "maximum": 4},
            "share": {"type": "number", "exclusiveMinimum": 0},
            "tags": {"type": "array", "items": {"type": "string", "minLength": 12}, "minItems": 2},
            "day": {"type": "string", "format": "date"},
            "deep": {"anyOf": [{"type": "object", "properties": {"a": {"type": "boolean"}},
                                "required": ["a"]}, {"type": "null"}]},
            "none": {"type": ["null", "string"]},
            "fixed": {"const": 7},
            "left_out": {"type": "string"},
        },
        "required": ["colour", "count", "share", "tags", "day", "deep", "none", "fixed"],
        "additionalProperties": False,
    }  # fmt: skip
    odd = {"name": "odd", "input_schema": schema}
    answer = driver.ask(_sim(steps=1, parallel=3), tools=[odd])
    for _, value in _calls(answer):
        jsonschema.validate(value, schema)


def test_structured_output(driver: Driver) -> None:
    """An answer under a JSON schema is an instance of it."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    form = {"format": {"type": "json_schema", "schema": schema}}
    assert orjson.loads(_said(driver.ask("Count", output_config=form))) == {"n": 0}


@pytest.mark.parametrize("wanted", [1, 50, 2_000])
def test_answer_tokens(driver: Driver, wanted: int) -> None:
    """answer_tokens is the text's length; the block's overhead comes on top."""
    answer = driver.ask(_sim(answer_tokens=wanted), max_tokens=4_000)
    assert answer["usage"]["output_tokens"] == wanted + 2


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 301])
def test_max_tokens_is_a_hard_limit(driver: Driver, limit: int) -> None:
    """An answer that does not fit ends at exactly max_tokens, whatever the characters."""
    answer = driver.ask(_sim(answer="é€" * 500), max_tokens=limit)
    assert answer["stop_reason"] == "max_tokens"
    assert answer["usage"]["output_tokens"] == limit
    assert len(_said(answer).encode()) <= max(0, limit - 2) * 4


def test_max_tokens_breaks_a_call(driver: Driver) -> None:
    """A tool call that does not fit stops at max_tokens, its input incomplete."""
    wide = _sim(steps=1, tools=["calculator"], inputs=[{"expression": "1+" * 500}])
    request = asking(wide, tools=_TOOLS, max_tokens=40, stream=True)
    plain = driver.ask(wide, tools=_TOOLS, max_tokens=40)
    assert (plain["stop_reason"], plain["usage"]["output_tokens"]) == ("max_tokens", 40)
    assert _calls(plain) == [("calculator", {})]
    written = "".join(
        event["delta"]["partial_json"]
        for event in events(driver.plan(request))
        if event["type"] == "content_block_delta"
    )
    assert written.startswith('{"expression":"1+')
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(written)


@pytest.mark.parametrize(
    ("stop", "reason", "kinds"),
    [
        ("refusal", "refusal", []),
        ("refusal_mid", "refusal", ["text"]),
        ("max_tokens", "max_tokens", ["text"]),
        ("truncated_tool_use", "max_tokens", ["tool_use"]),
        ("empty", "end_turn", []),
        ("pause_turn", "pause_turn", ["text", "server_tool_use"]),
        ("model_context_window_exceeded", "model_context_window_exceeded", ["text"]),
        ("stop_sequence", "stop_sequence", ["text"]),
        ("unknown", "reason_of_tomorrow", ["text"]),
        ("null", None, ["text"]),
    ],
)
def test_forced_stops(driver: Driver, stop: str, reason: str | None, kinds: list[str]) -> None:
    """Every way an answer can end can be asked for."""
    answer = driver.ask(_sim(stop=stop), tools=_TOOLS)
    assert answer["stop_reason"] == reason
    assert [block["type"] for block in answer["content"]] == kinds
    assert 0 <= answer["usage"]["output_tokens"] <= 1_000


def test_refusals_are_billed_from_their_first_word(driver: Driver) -> None:
    """Before any output a refusal shows usage and costs nothing; in mid-answer it is billed."""
    before = driver.ask(_sim(stop="refusal", category="bio"))
    assert before["stop_details"]["category"] == "bio"
    assert before["usage"]["input_tokens"] > 0
    assert driver.lines == []
    mid = driver.ask(_sim(stop="refusal_mid"))
    (line,) = driver.lines
    assert line["usage"]["output_tokens"] == mid["usage"]["output_tokens"] > 0


def test_stop_at_a_round(driver: Driver) -> None:
    """stop_at lets an answer end so in the middle of a tool loop."""
    turns = [user(_sim(steps=2, stop="refusal", stop_at=1))]
    first = driver.ask(turns, tools=_TOOLS)
    assert first["stop_reason"] == "tool_use"
    turns += [assistant(first["content"]), results(first)]
    assert driver.ask(turns, tools=_TOOLS)["stop_reason"] == "refusal"


def test_stop_sequences_end_the_text(driver: Driver) -> None:
    """The first stop sequence in the text ends it, and is named, not said."""
    stops = ["gamma", "beta"]
    answer = driver.ask(_sim(answer="alpha beta gamma"), stop_sequences=stops)
    assert (_said(answer), answer["stop_sequence"]) == ("alpha ", "beta")
    assert answer["stop_reason"] == "stop_sequence"


def test_a_paused_turn_goes_on(driver: Driver) -> None:
    """A paused turn sent back as it is gets its result block and its answer."""
    ask = user(_sim(stop="pause_turn", answer="Found it."))
    paused = driver.ask([ask])
    resumed = driver.ask([ask, assistant(paused["content"])])
    kinds = [block["type"] for block in resumed["content"]]
    assert (kinds, resumed["stop_reason"]) == (["web_fetch_tool_result", "text"], "end_turn")
    assert resumed["content"][0]["tool_use_id"] == paused["content"][-1]["id"]
    assert paused["usage"]["server_tool_use"]["web_fetch_requests"] == 1


def test_unknown_blocks(driver: Driver) -> None:
    """A block of a type nobody knows can be had, and may be sent back."""
    ask = user(_sim(unknown_block=True))
    answer = driver.ask([ask])
    assert answer["content"][0]["type"] == "future_block"
    assert driver.ask([ask, assistant(answer["content"]), user("Go on")])["type"] == "message"


@pytest.mark.parametrize(
    "text",
    [
        "[[sim {]]",
        "[[sim {}",
        "[[sim []]]",
        '[[sim {"step": 1}]]',
        '[[sim {"steps": -1}]]',
        '[[sim {"steps": true}]]',
        '[[sim {"stop": "later"}]]',
        '[[sim {"tools": [1]}]]',
        '[[sim {"answer": 5}]]',
    ],
)
def test_bad_directives(driver: Driver, text: str) -> None:
    """A directive that cannot be followed is a 400 that says it is one."""
    status, message = driver.refusal(text)
    assert status == 400
    assert message.startswith("simulator directive: ")


def _thinking_loop(driver: Driver, model: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    question = user(_sim(steps=2, thinking=True))
    first = driver.ask([question], tools=_TOOLS, model=model)
    return [question, assistant(first["content"]), results(first)], first


def test_thinking_comes_first_and_signed(driver: Driver) -> None:
    """A thinking block has no text and a signature, and goes back as it came."""
    turns, first = _thinking_loop(driver, "claude-opus-5-5")
    thought = first["content"][0]
    assert (thought["type"], thought["thinking"]) == ("thinking", "")
    assert thought["signature"]
    assert driver.ask(turns, tools=_TOOLS, model="claude-opus-5-5")["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"signature": "x"}, "Invalid `signature`"),
        ({"thinking": "I thought"}, "Invalid `signature`"),
        ({"type": "text", "text": "hm"}, "Expected `thinking`"),
    ],
)
def test_changed_thinking(driver: Driver, change: dict[str, Any], words: str) -> None:
    """A thinking block changed or left out is a 400."""
    turns, first = _thinking_loop(driver, "claude-haiku-4-5")
    turns[1] = assistant([{**first["content"][0], **change}, *first["content"][1:]])
    status, message = driver.refusal(turns, tools=_TOOLS, model="claude-haiku-4-5")
    assert status == 400
    assert words in message


def test_thinking_is_bound_to_its_conversation(driver: Driver) -> None:
    """On the newest models history before a thinking block may not change; cache markers may."""
    turns, _ = _thinking_loop(driver, "claude-opus-5-5")
    text = turns[0]["content"]
    marked = [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]
    same = [user(marked), *turns[1:]]
    assert driver.plan(asking(same, tools=_TOOLS, model="claude-opus-5-5")).status == 200
    changed = [user(text + "!"), *turns[1:]]
    status, message = driver.refusal(changed, tools=_TOOLS, model="claude-opus-5-5")
    assert status == 400
    assert "bound to a different conversation" in message
    status, message = driver.refusal(turns, tools=_TOOLS, model="claude-opus-5-5", system="New.")
    assert "bound to a different conversation" in message


def test_thinking_can_eat_the_whole_limit(driver: Driver) -> None:
    """max_tokens includes thinking: a small limit leaves no words."""
    answer = driver.ask(_sim(thinking=True, thinking_tokens=90), max_tokens=80)
    assert [block["type"] for block in answer["content"]] == ["thinking"]
    assert (answer["stop_reason"], answer["usage"]["output_tokens"]) == ("max_tokens", 80)


@pytest.mark.parametrize("fields", [{}, {"steps": 1, "parallel": 3, "thinking": True}])
def test_stream_adds_up_to_the_message(fields: dict[str, Any]) -> None:
    """The events of a stream rebuild the very message a plain request gets."""
    ask = _sim(answer_tokens=300, **fields)
    plain = Driver().ask(ask, tools=_TOOLS)
    found = events(Driver().plan(asking(ask, tools=_TOOLS, stream=True)))
    assert assembled(found) == plain
    assert {"ping", "message_stop"} <= {event["type"] for event in found}


def test_another_models_thinking_is_dropped(driver: Driver) -> None:
    """A thinking block of another model is neither refused nor billed."""
    thinking = _sim(steps=2, thinking=True, thinking_tokens=400)
    first = driver.ask(thinking, tools=_TOOLS, model="claude-opus-5-5")
    turns = [user(thinking), assistant(first["content"]), results(first)]
    same = driver.ask(turns, tools=_TOOLS, model="claude-opus-5-5")
    other = driver.ask(turns, tools=_TOOLS, model="claude-sonnet-5-5")
    assert same["usage"]["input_tokens"] - other["usage"]["input_tokens"] == 400
