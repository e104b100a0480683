"""Ridge regression on sparse rows by conjugate gradients, in plain Python: the same numbers on every run."""

from collections.abc import Sequence

Row = tuple[Sequence[int], Sequence[float]]
"""Column numbers and their values."""
ITERATIONS = 40
_ENOUGH = 1e-6


def solve(
    rows: Sequence[Row], targets: Sequence[float], columns: int, penalty: float
) -> list[float]:
    """The weights w that make |rows·w - targets|² + penalty·|w|² smallest."""
    weights = [0.0] * columns
    residual = _transposed(rows, targets, columns)
    direction = residual[:]
    size = first = _dot(residual, residual)
    for _ in range(ITERATIONS):
        if size <= first * _ENOUGH**2:
            break
        image = _transposed(rows, _times(rows, direction), columns)
        image = [i + penalty * d for i, d in zip(image, direction, strict=True)]
        step = size / _dot(direction, image)
        weights = [w + step * d for w, d in zip(weights, direction, strict=True)]
        residual = [r - step * i for r, i in zip(residual, image, strict=True)]
        size, before = _dot(residual, residual), size
        share = size / before
        direction = [r + share * d for r, d in zip(residual, direction, strict=True)]
    return weights


def _times(rows: Sequence[Row], vector: Sequence[float]) -> list[float]:
    return [
        sum([vector[c] * v for c, v in zip(columns, values, strict=True)])
        for columns, values in rows
    ]


def _transposed(rows: Sequence[Row], vector: Sequence[float], columns: int) -> list[float]:
    total = [0.0] * columns
    for (own, values), factor in zip(rows, vector, strict=True):
        if factor:
            for column, value in zip(own, values, strict=True):
                total[column] += factor * value
    return total


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum([x * y for x, y in zip(a, b, strict=True)])
