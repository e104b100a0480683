"""`urgency: economy`: which tasks can be asked in a batch."""

from app.api.bodies import TaskIn
from app.api.services import Services
from app.domain.errors import SubmissionRefused
from app.domain.task import BudgetPolicy, Urgency

_WHY = (
    "A batch takes one question and brings one answer, hours later: {what}. Leave it out, or ask with the "
    "urgency 'normal'."
)


def is_economy(services: Services, body: TaskIn) -> bool:
    """Whether the task is to be asked in a batch.

    Raises:
        SubmissionRefused: it is, and cannot be.
    """
    if body.urgency is not Urgency.ECONOMY:
        return False
    if not services.takes_batches:
        message = "The provider that is configured takes no batches; ask with the urgency 'normal'."
        raise SubmissionRefused("urgency", message, "economy-unavailable")
    for field, wanted, what in (
        ("tools", bool(body.tools), "there is nobody to run tools"),
        ("max_steps", body.max_steps not in {None, 1}, "there is no second step"),
        ("on_budget", body.on_budget is BudgetPolicy.FINALIZE, "there is no closing turn"),
        ("escalate", bool(body.escalate), "no other model goes on"),
        ("compact_above_tokens", body.compact_above_tokens is not None, "nothing grows"),
        ("fallback", bool(body.fallback), "no other model goes on"),
    ):
        if wanted:
            raise SubmissionRefused(field, _WHY.format(what=what), "not-for-economy")
    return True
