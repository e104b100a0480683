"""Ridge regression."""

import pytest

from training.ridge import Row, solve


def test_a_single_column():
    """w = Σxy / (Σx² + penalty)."""
    rows: list[Row] = [([0], [1.0]), ([0], [2.0])]
    assert solve(rows, [1.0, 2.0], 1, 5.0) == pytest.approx([0.5])


def test_the_gradient_vanishes():
    """At the solution no weight can be bettered."""
    rows: list[Row] = [([0, 2], [1.0, 0.5]), ([1], [2.0]), ([0, 1, 2], [0.3, 0.2, 1.0]), ([], [])]
    targets, penalty = [1.0, -1.0, 0.5, 9.0], 0.7
    weights = solve(rows, targets, 3, penalty)
    errors = [
        sum(weights[c] * v for c, v in zip(columns, values, strict=True)) - target
        for (columns, values), target in zip(rows, targets, strict=True)
    ]
    for column in range(3):
        slope = sum(
            error * value
            for (columns, values), error in zip(rows, errors, strict=True)
            for c, value in zip(columns, values, strict=True)
            if c == column
        )
        assert slope + penalty * weights[column] == pytest.approx(0, abs=1e-6)


def test_nothing_to_learn():
    """Targets of zero give weights of zero."""
    assert solve([([0], [1.0])], [0.0], 2, 1.0) == [0.0, 0.0]
