"""What an erasure must empty: every text of every event is either a word of ours or told to quote."""

import typing
from dataclasses import fields

import pytest

from app.journal.events import EVENTS

WORDS = {
    *(
        "alternatives",
        "bound",
        "by",
        "cache",
        "complexity",
        "decision",
        "error_type",
        "kind",
        "move",
        "outcome",
        "phase",
    ),
    *("reason", "scope", "status", "stop_reason", "why"),
    *("model", "simple_model", "medium_model", "complex_model", "from_model", "to_model"),
    *("call_id", "price_row", "request_id", "scope_id", "signals", "tools", "worker"),
    *("tier", "batch_id", "result"),
}
"""Fields whose texts are names and words of the service, of its configuration or of the provider's protocol:
nothing of what was asked or answered. Think before you add one: what is here outlives `DELETE /tasks/{id}`."""


@pytest.mark.parametrize("name", EVENTS)
def test_every_text_is_a_word_or_quotes(name: str) -> None:
    """A new field is refused until somebody has said which it is."""
    kind = EVENTS[name]
    hints = typing.get_type_hints(kind)
    texts = {field.name for field in fields(kind) if "str" in str(hints[field.name])}
    assert set(kind.quoting) <= texts
    assert texts - set(kind.quoting) <= WORDS
