"""What a text shows."""

from hypothesis import given
from hypothesis import strategies as st

from app.llm.routing.features import HEAD_CHARS, NAMES, features_of


def test_words_pairs_and_triples():
    """Words in lower case, their neighbours, and no number by its value."""
    found = features_of("Add 12 apples")
    assert found.grams == {"add", "#", "apples", "add #", "# apples", "add # apples"}


def test_what_only_exams_have_is_left_out():
    """The letters of choices and the cue for an answer say nothing of a task."""
    exam = features_of("Which is red?\nA. Blood\nB. Milk\nAnswer:")
    assert exam.grams == features_of("Which is red?\nBlood\nMilk").grams


def test_words_of_any_script_are_words():
    """Letters beyond ASCII are no punctuation."""
    assert "größe" in features_of("Größe?").grams


def test_of_a_long_text_the_ends_are_read():
    """Its middle is not looked at; its length counts."""
    text = "start " + "filler " * HEAD_CHARS + "end"
    found = features_of(text)
    assert {"start", "end"} <= found.grams
    assert found.numbers[NAMES.index("length")] > features_of("start end").numbers[0]


@given(st.text(max_size=300))
def test_any_text_has_features(text):
    """Whatever comes in, the numbers are there and finite, and the same again."""
    found = features_of(text)
    assert len(found.numbers) == len(NAMES)
    assert all(0 <= number < 100 for number in found.numbers)
    assert features_of(text) == found
