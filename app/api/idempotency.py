"""`Idempotency-Key`: however often a POST is sent, it makes one task, and is answered as the first time.

The answer is stored in the transaction that accepts the task, for 24 hours; the table's key says that there is
one. A refusal is not stored: nothing has happened, and next time it may be accepted.
"""

import hashlib
from collections.abc import Callable

import orjson
from fastapi import Request

from app.api import present
from app.api.bodies import TaskIn
from app.api.services import Services
from app.api.submit import Submission
from app.budget.keys import Principal
from app.domain.errors import BursarError, KeyReused, SubmissionRefused
from app.domain.record import record
from app.queue.answers import expired_us
from app.store.port import Tx

HEADER = "Idempotency-Key"
REPLAYED = {"Idempotency-Replayed": "true"}
KEY_LIMIT = 255


@record(frozen=True, slots=True)
class Key:
    """A client's name for one submission."""

    owner: str
    text: str
    digest: str
    """SHA-256 of what the body means: its fields as they were understood, in a fixed order, defaults left out."""


@record(frozen=True, slots=True)
class Answer:
    """What the submission was answered."""

    task_id: str
    status: int
    headers: dict[str, str]
    body: str | None
    """None once the task's content was erased."""


class AlreadyAnswered(BursarError):  # noqa: N818
    """Another request with this key was accepted meanwhile: nothing of this one is kept."""


def key_of(request: Request, who: Principal, body: TaskIn) -> Key | None:
    """The request's key, if it has one.

    Raises:
        SubmissionRefused: it is none.
    """
    given = request.headers.getlist(HEADER)
    if not given:
        return None
    text = given[0]
    if (
        len(given) > 1
        or not text.isascii()
        or not text.isprintable()
        or len(text) > KEY_LIMIT
        or not text
    ):
        message = f"An {HEADER} is 1 to {KEY_LIMIT} printable ASCII characters, and is sent once."
        raise SubmissionRefused(HEADER, message, "invalid-idempotency-key")
    return Key(who.owner, text, _digest(body))


def _digest(body: TaskIn) -> str:
    """Spelled otherwise it is the same submission: the order of fields, white space, a default written out."""
    meant = body.model_dump(mode="json", exclude_defaults=True)
    if body.budget_usd is not None:  # 0.5 and 0.50 are one amount
        meant["budget_usd"] = str(body.budget_usd.normalize())
    return hashlib.sha256(orjson.dumps(meant, option=orjson.OPT_SORT_KEYS)).hexdigest()


def answered(tx: Tx, key: Key) -> Answer | None:
    """What was answered to the first request with this key, if there was one in the last 24 hours.

    Raises:
        KeyReused: its body was another one.
    """
    row = tx.one("read_answer", owner=key.owner, key=key.text, expired_us=expired_us(tx))
    if row is None:
        return None
    if row["digest"] != key.digest:
        raise KeyReused(key.text)
    return Answer(row["task_id"], row["status"], orjson.loads(row["headers"]), row["body"])


def once(
    services: Services,
    key: Key,
    submission: Submission,
    headers: dict[str, str],
    accept: Callable[[Tx], int],
) -> Callable[[Tx], int]:
    """The acceptance, and its answer with it.

    Raises (when run):
        AlreadyAnswered: somebody else was first.
    """

    def op(tx: Tx) -> int:
        task = present.accepted_task(submission, tx.now_us, simulated=services.simulated)
        stored = tx.run(
            "remember_answer",
            owner=key.owner,
            key=key.text,
            digest=key.digest,
            task_id=submission.subject.task_id,
            status=202,
            headers=orjson.dumps(headers).decode(),
            body=orjson.dumps(task).decode(),
            now_us=tx.now_us,
            expired_us=expired_us(tx),
        )
        if not stored:
            raise AlreadyAnswered
        return accept(tx)

    return op
