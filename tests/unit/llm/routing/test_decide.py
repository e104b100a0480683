"""From a task to its complexity, and why."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.task import Complexity
from app.llm.routing.decide import UNKNOWN_SCORE, Thresholds, decide, score
from app.llm.routing.evidence import Asked, evidence
from app.llm.routing.score import shipped
from tests.unit.llm.routing.test_score import PLAIN

THRESHOLDS = Thresholds(0.45, 0.8)
NEUTRAL = "lorem ipsum dolor sit amet " * 10
"""A text without a known word, neither short nor long."""


def effects(text: str, **around: Any) -> dict[str, float]:
    """The structure's evidence by name."""
    return {s.name: s.effect for s in evidence(Asked(text, **around))}


@pytest.mark.parametrize(
    ("text", "signal"),
    [
        ("```python\nx = 1\n```" + NEUTRAL, "code"),
        ("def f(x):\n    return x\n" + NEUTRAL, "code"),
        (f"1. {NEUTRAL}\n2. {NEUTRAL}\n3) {NEUTRAL}", "several steps"),
        (f"First {NEUTRAL} then {NEUTRAL} and finally {NEUTRAL}", "several steps"),
        (f"Please refactor {NEUTRAL}", "a demanding verb"),
        (f"{NEUTRAL}. Design it.", "a demanding verb"),
        (f"Translate {NEUTRAL}", "a plain verb"),
        (NEUTRAL * 40, "long input"),
        (NEUTRAL * 200, "very long input"),
        ("lorem", "very short input"),
    ],
)
def test_what_the_text_shows(text, signal):
    """Each kind of structure is one signal, and the only one."""
    assert list(effects(text)) == [signal]


def test_a_verb_counts_where_it_is_asked():
    """A word in the middle of a sentence is no request."""
    assert effects(f"The list of the plan {NEUTRAL}") == {}
    assert effects(f"Summarize the plan. Prove it. {NEUTRAL}") == {"a demanding verb": 0.15}


def test_what_stands_around_the_text():
    """Tools up to a limit, a long system prompt, a large output."""
    assert effects(NEUTRAL, tool_count=1) == {"1 tool": 0.05}
    assert effects(NEUTRAL, tool_count=9) == {"9 tools": 0.20}
    assert effects(NEUTRAL, system=NEUTRAL * 10) == {"long system prompt": 0.05}
    assert effects(NEUTRAL, max_tokens=10_000) == {"large output": 0.10}
    assert effects(NEUTRAL, max_tokens=8_192, system="Be brief.") == {}


def test_unknown_words_score_the_cautious_middle():
    """Where nothing was learned, the structure alone moves the score."""
    assert score(Asked(NEUTRAL), PLAIN).score == UNKNOWN_SCORE
    assert score(Asked(NEUTRAL, tool_count=3), PLAIN).score == pytest.approx(UNKNOWN_SCORE + 0.15)


@pytest.mark.parametrize(
    ("tools", "complexity", "reason"),
    [
        (0, Complexity.SIMPLE, "auto: score 0.40 < 0.45"),
        (1, Complexity.MEDIUM, "auto: score 0.45 >= 0.45 (1 tool +0.05)"),
        (4, Complexity.COMPLEX, "auto: score 0.60 >= 0.60 (4 tools +0.20)"),
    ],
)
def test_the_thresholds_divide(tools, complexity, reason):
    """A score at a threshold is above it; the reason says which and why."""
    made = decide(Asked(NEUTRAL, tool_count=tools), PLAIN, Thresholds(0.45, 0.6))
    assert (made.complexity, made.reason) == (complexity, reason)


def test_crossed_thresholds_leave_no_middle():
    """When complex begins below medium, there are two kinds of tasks."""
    crossed = Thresholds(0.9, 0.3)
    assert decide(Asked(NEUTRAL), PLAIN, crossed).complexity is Complexity.COMPLEX
    low = decide(Asked("lorem"), PLAIN, Thresholds(0.9, 0.35))
    assert (low.complexity, low.reason) == (
        Complexity.SIMPLE,
        "auto: score 0.30 < 0.35 (very short input -0.10)",
    )


def test_the_reason_never_quotes_the_task():
    """Whatever a task says, the reason has the router's own words: it is logged."""
    secret = "hunter2 the patient's defendant calculates x" + NEUTRAL
    made = decide(Asked(secret, system="hunter2"), shipped(), THRESHOLDS)
    told = " ".join([made.reason, *(signal.name for signal in made.signals)])
    assert not {"hunter2", "patient", "defendant", "lorem"} & set(told.split())


@given(st.text(max_size=400), st.integers(0, 64), st.none() | st.integers(1, 128_000))
def test_any_task_gets_the_same_score_again(text, tools, max_tokens):
    """The score is within 0 and 1 and depends on nothing but the task."""
    asked = Asked(text, tool_count=tools, max_tokens=max_tokens)
    found = score(asked, shipped())
    assert 0 <= found.score <= 1
    assert score(asked, shipped()) == found


@pytest.mark.parametrize(
    ("text", "tools", "complexity"),
    [
        ("Say hello.", 0, Complexity.SIMPLE),
        ('Translate "good morning" into French.', 0, Complexity.SIMPLE),
        ("Explain supervised and unsupervised learning.", 0, Complexity.SIMPLE),
        (
            (
                "Refactor this service so that it retries, then write tests, and finally a migration plan:\n"
                "```python\ndef call(x):\n    return send(x)\n```"
            ),
            3,
            Complexity.COMPLEX,
        ),
    ],
)
def test_plain_cases(text, tools, complexity):
    """What nobody would argue about."""
    assert decide(Asked(text, tool_count=tools), shipped(), THRESHOLDS).complexity is complexity
