"""Poolers between us and PostgreSQL: one that takes sessions apart is refused at the start, with the reason."""

import pytest

from app.domain.errors import StoreUnavailable
from app.store.postgres_schema import prepare
from tests.support.pooler import Mode, pooler
from tests.support.postgres import Server


@pytest.mark.parametrize("mode", ["latest", "in turn"])
def test_by_the_transaction(postgres: Server, database_url: str, mode: Mode) -> None:
    """What is prepared, set and listened to would be somebody else's: one sentence says what to do."""
    with (
        pooler(postgres, database_url, mode) as url,
        pytest.raises(StoreUnavailable, match=r"pool_mode=transaction\)\. Connect .* directly"),
    ):
        prepare(url, make=False)


def test_by_the_session(postgres: Server, database_url: str) -> None:
    """Each connection keeps its server, whatever the pooler says of its process: it may be used."""
    with pooler(postgres, database_url, "session") as url:
        prepare(url, make=False)
