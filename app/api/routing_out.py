"""What the API tells of the router's decision."""

from pydantic import BaseModel, Field

from app.domain.task import Complexity


class SignalOut(BaseModel):
    """One reason of the router's."""

    name: str
    effect: float = Field(description="What it adds to the score, about.")


class AlternativeOut(BaseModel):
    """What the task would cost on a route."""

    complexity: Complexity
    model: str
    likely_usd: float = Field(description="By a rule of thumb. Not a bound.")
    worst_case_usd: float


class RoutingOut(BaseModel):
    """How the router found a task's complexity."""

    score: float = Field(description="How hard it looks, from 0 to 1.")
    signals: list[SignalOut] = Field(
        description="What the score is made of, the strongest first; never words of the task."
    )
    alternatives: list[AlternativeOut] = Field(
        description="What each complexity would have cost, the chosen one too."
    )
