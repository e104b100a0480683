"""A pooler between us and PostgreSQL must leave each connection its session: what is prepared, set and listened to is kept there.

PgBouncer in transaction mode gives every transaction to whichever server is free. Nothing says so: it shows in tasks
that stand still and statements that do not exist. So whoever opens the database looks for it first.
"""

from app.domain.errors import StoreUnavailable
from app.store.postgres_link import Link

_PID = "SELECT pg_backend_pid()"


def refuse_shared_sessions(link: Link, url: str) -> None:
    """See that this connection has its server to itself. Costs one question where no pooler is in between.

    Raises:
        StoreUnavailable: it changes its server, or shares it.
        psycopg.Error: the database cannot be used.
    """
    mine = _server(link)
    if link.told_pid == mine:
        return  # what answers is what we have logged in to
    if _server(link) != mine or _is_shared(link, mine, url):
        raise StoreUnavailable(
            f"{link.place} is behind a pooler that hands out servers by the transaction (PgBouncer's"
            " pool_mode=transaction). Connect to PostgreSQL directly, or use pool_mode=session."
        )


def _is_shared(link: Link, mine: int, url: str) -> bool:
    """Somebody else's transaction gets our server, or we get another one while it lasts."""
    other = Link(url)
    try:
        other.simple("BEGIN")
        return _server(other) == mine or _server(link) != mine
    finally:
        other.close()


def _server(link: Link) -> int:
    """The process that answers, by its own word."""
    return int(link.simple(_PID).get_value(0, 0) or 0)
