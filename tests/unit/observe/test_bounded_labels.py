"""Labels whose values come from outside stay bounded."""

from app.observe.metrics import LABEL_VALUES_LIMIT, BoundedLabels


def test_values_beyond_the_limit_count_as_other() -> None:
    """The first values keep their names; made-up ones after that share one."""
    labels = BoundedLabels()
    first = [labels.of(f"model-{number}") for number in range(LABEL_VALUES_LIMIT)]
    assert first == [f"model-{number}" for number in range(LABEL_VALUES_LIMIT)]
    assert labels.of("one more") == "other"
    assert labels.of("model-0") == "model-0"
