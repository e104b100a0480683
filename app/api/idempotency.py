"""`Idempotency-Key`: however often a POST is sent, it makes one task or one retry, and is answered as the first time.

The answer is stored in the transaction that accepts the request, for 24 hours; the table's key says that there is
one. Where the request waits for the task's end, what it is answered then takes the acceptance's place. A refusal is
not stored: nothing has happened, and next time it may be accepted.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson
from fastapi import Request, Response

from app.api import present
from app.api.bodies import RetryIn, TaskIn
from app.api.services import Services
from app.api.submit import Submission
from app.budget.keys import Principal
from app.domain.errors import BursarError, KeyReused, StoreError, SubmissionRefused
from app.domain.record import record
from app.queue.answers import expired_us
from app.store.port import Tx

HEADER = "Idempotency-Key"
REPLAYED = {"Idempotency-Replayed": "true"}
KEY_LIMIT = 255
_OWN_HEADERS = ("Location", "Retry-After", "Preference-Applied")
"""What an answer says besides its body."""


@record(frozen=True, slots=True)
class Key:
    """A client's name for one submission, or for one retry."""

    owner: str
    text: str
    digest: str
    """SHA-256 of what is asked: the body's fields as they were understood, in a fixed order, defaults left out; and
    which task is to be retried."""


@record(frozen=True, slots=True)
class Answer:
    """What the first request with the key was answered."""

    task_id: str
    status: int
    headers: dict[str, str]
    body: str | None
    """None once the task's content was erased."""


class AlreadyAnswered(BursarError):  # noqa: N818
    """Another request with this key was accepted meanwhile: nothing of this one is kept."""


def key_of(
    request: Request, who: Principal, body: TaskIn | RetryIn, task_id: str | None = None
) -> Key | None:
    """The request's key, if it has one; `task_id` is what it asks to retry.

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
    return Key(who.owner, text, _digest(body, task_id))


def _digest(body: TaskIn | RetryIn, task_id: str | None) -> str:
    """Spelled otherwise it is the same submission: the order of fields, white space, a default written out."""
    meant = body.model_dump(mode="json", exclude_defaults=True)
    if body.budget_usd is not None:  # 0.5 and 0.50 are one amount
        meant["budget_usd"] = str(body.budget_usd.normalize())
    if task_id is not None:  # no field of a submission is called so
        meant = {"retry": task_id, "with": meant}
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


async def known_answer(services: Services, key: Key | None) -> Answer | None:
    """The same, by a transaction of its own; None without a key, too."""
    return None if key is None else await services.store.read(lambda tx: answered(tx, key))


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
        remember(tx, key, submission.subject.task_id, headers, task)
        return accept(tx)

    return op


def remember(tx: Tx, key: Key, task_id: str, headers: dict[str, str], task: dict[str, Any]) -> None:
    """Store that the request was accepted, and how that is answered.

    Raises:
        AlreadyAnswered: somebody else was first.
    """
    stored = tx.run(
        "remember_answer",
        owner=key.owner,
        key=key.text,
        digest=key.digest,
        task_id=task_id,
        status=202,
        headers=orjson.dumps(headers).decode(),
        body=orjson.dumps(task).decode(),
        now_us=tx.now_us,
        expired_us=expired_us(tx),
    )
    if not stored:
        raise AlreadyAnswered


async def amend(services: Services, key: Key, task_id: str, response: Response) -> None:
    """Store what a request that waited is answered, instead of its acceptance.

    Where that cannot be stored the acceptance stays: it is true as well, and the client has waited for this answer.
    """
    headers = {n: response.headers[n] for n in _OWN_HEADERS if n in response.headers}
    with suppress(StoreError):
        await services.store.write(
            lambda tx: tx.run(
                "amend_answer",
                owner=key.owner,
                key=key.text,
                digest=key.digest,
                task_id=task_id,
                status=response.status_code,
                headers=orjson.dumps(headers).decode(),
                body=bytes(response.body).decode(),
            )
        )
