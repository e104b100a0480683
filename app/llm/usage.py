"""What a call used: tokens by meter, as the provider reports them. A number we cannot trust is None."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens by meter. The prompt's size is the sum of the four input meters."""

    input: int = 0
    """Uncached input only: what stands after the last cache breakpoint."""
    output: int = 0
    """Billed output, thinking included."""
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0

    @property
    def prompt(self) -> int:
        """Size of the prompt, in tokens."""
        return self.input + self.cache_read + self.cache_write_5m + self.cache_write_1h


@dataclass(frozen=True, slots=True)
class Usage:
    """One answer's usage, ready to be priced.

    `parts` has one entry per billed model pass: one for an ordinary answer, one per entry of
    `usage.iterations` (compaction, advisor, fallback), each with the model that ran it.
    """

    parts: tuple[tuple[str, Tokens], ...]
    web_searches: int = 0
    service_tier: str = "standard"
    inference_geo: str = "global"
    speed: str = "standard"
