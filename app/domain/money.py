"""Money: integer nano-dollars (1e-9 USD) inside, `Decimal` or a JSON number at the edge."""

from decimal import Decimal

NANO_PER_USD = 1_000_000_000
MAX_USD = 1_000_000
"""Largest amount accepted at the edge, in USD: keeps every JSON number exact to the nano-dollar."""


def nano_from_usd(usd: Decimal) -> int:
    """USD to nano-dollars.

    Raises:
        ValueError: not finite, negative, above `MAX_USD`, or finer than a nano-dollar.
    """
    if not usd.is_finite() or usd < 0 or usd > MAX_USD:
        msg = f"an amount must be a finite number of USD between 0 and {MAX_USD:,}"
        raise ValueError(msg)
    nano = usd * NANO_PER_USD
    if nano != nano.to_integral_value():
        msg = "an amount has at most nine decimals (1 nano-dollar)"
        raise ValueError(msg)
    return int(nano)


def usd_from_nano(nano: int) -> float:
    """Nano-dollars to the JSON number of USD; its shortest decimal form is exact up to `MAX_USD`."""
    return nano / NANO_PER_USD


def format_usd(nano: int) -> str:
    """Nano-dollars for people: at least two decimals, never "0.00" for an amount that is not zero."""
    text = f"{Decimal(nano) / NANO_PER_USD:.9f}".rstrip("0")
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction:0<2}"
