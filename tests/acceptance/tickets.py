"""What the dispatcher's tables say of the processes that worked."""

import psycopg


def executors(url: str) -> set[str]:
    """Who took the tickets that are still there."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            b"SELECT DISTINCT executor_id FROM dbos.workflow_status WHERE status = 'SUCCESS'"
        )
        return {row[0] for row in found.fetchall()}


def connections(url: str, application_name: str) -> int:
    """How many connections of this name the database has."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT COUNT(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = %s",
            (application_name,),
        )
        return int(found.fetchall()[0][0])
