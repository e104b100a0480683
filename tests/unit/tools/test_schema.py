"""The checker for hand-written schemas, held against a full implementation."""

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.tools.errors import InvalidArgumentsError
from app.tools.schema import check_arguments

SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "bb", 0.5])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3)
    ),
    max_leaves=8,
)
TYPES = st.sampled_from(["object", "array", "string", "boolean", "null", "number", "integer"])
KEYWORDS: dict[str, st.SearchStrategy[Any]] = {
    "type": TYPES | st.lists(TYPES, min_size=1, max_size=2, unique=True),
    "enum": st.lists(SCALARS, min_size=1, max_size=3),
    "const": SCALARS,
    "required": st.lists(st.sampled_from("xyz"), max_size=2, unique=True),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), st.just(1)),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), st.just(1)),
}


def schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    nested = {
        "properties": st.dictionaries(st.sampled_from("xyz"), inner, max_size=2),
        "additionalProperties": inner,
        "items": inner,
        "anyOf": st.lists(inner, min_size=1, max_size=2),
        "allOf": st.lists(inner, min_size=1, max_size=2),
    }
    return st.fixed_dictionaries({}, optional={**KEYWORDS, **nested})


SCHEMAS = st.recursive(
    st.booleans() | st.fixed_dictionaries({}, optional=KEYWORDS), schemas, max_leaves=5
)


@settings(max_examples=300)
@given(schema=SCHEMAS, value=VALUES)
def test_agrees_with_a_full_checker(schema: Any, value: Any) -> None:
    """For the keywords we know, our verdict is the standard's."""
    wrapped = {"type": "object", "properties": {"v": schema}}
    expected = jsonschema.Draft202012Validator(wrapped).is_valid({"v": value})
    try:
        check_arguments(wrapped, {"v": value})
        accepted = True
    except InvalidArgumentsError:
        accepted = False
    assert accepted == expected


@pytest.mark.parametrize(
    ("schema", "value", "message"),
    [
        ({"type": ["string", "null"]}, 1, "v: should be of type string or null"),
        ({"enum": ["a", "b"]}, "c", "v: should be one of 'a', 'b'"),
        ({"const": "a"}, "c", "v: should be 'a'"),
        ({"minimum": 1}, 0, "v: should be at least 1"),
        ({"maxLength": 1}, "ab", "v: should be of length at most 1"),
        ({"properties": {"w": {"type": "null"}}}, {"w": 1}, "v.w: should be of type null"),
        ({"items": {"type": "null"}}, [None, 1], "v[1]: should be of type null"),
        ({"required": ["w"]}, {}, "v.w: is required"),
        ({"additionalProperties": False}, {"w": 1}, "v.w: there is no such argument"),
        ({"oneOf": [{"type": "null"}]}, 1, "v: fits none of the 1 allowed forms"),
    ],
)
def test_messages_name_the_field(schema: Any, value: Any, message: str) -> None:
    """Each problem names the field, in words."""
    with pytest.raises(InvalidArgumentsError) as caught:
        check_arguments({"properties": {"v": schema}}, {"v": value})
    assert str(caught.value) == message


def test_many_problems_are_counted() -> None:
    """Five are shown, the rest counted."""
    with pytest.raises(InvalidArgumentsError, match="and 7 more") as caught:
        check_arguments({"additionalProperties": False}, {f"k{n}": 1 for n in range(12)})
    assert str(caught.value).count(";") == 5


def test_long_names_are_cut() -> None:
    """A field name from the model cannot flood the answer."""
    with pytest.raises(InvalidArgumentsError) as caught:
        check_arguments({"additionalProperties": False}, {"k" * 100_000: 1})
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("schema", [{"pattern": "(a+)+$"}, {"type": "unheard-of"}, {"$ref": "#/x"}])
def test_unknown_keywords_are_left_to_the_tool(schema: Any) -> None:
    """What is not understood does not stop a call."""
    arguments = {"v": "a" * 60 + "b"}
    assert check_arguments({"properties": {"v": schema}}, arguments) is arguments


def test_nesting_beyond_reason() -> None:
    """Arguments deeper than the checker can go are refused, not crashed on."""
    rule: dict[str, Any] = {}
    value: Any = None
    for _ in range(2_000):
        rule, value = {"items": rule}, [value]
    with pytest.raises(InvalidArgumentsError, match="nested too deeply"):
        check_arguments({"properties": {"v": rule}}, {"v": value})
