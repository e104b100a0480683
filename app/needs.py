"""What a process must be told before it can start. Asked before anything heavy is loaded."""

from app.settings import Role, Settings, SettingsError


def require_provider(settings: Settings) -> None:
    """Make sure that something can answer a task.

    Raises:
        SettingsError: neither key, base URL nor simulator.
    """
    if (
        settings.anthropic_base_url is None
        and settings.anthropic_api_key is None
        and not settings.simulated
    ):
        raise SettingsError([_NO_PROVIDER])


_NO_PROVIDER = (
    "There is no model to talk to: set ANTHROPIC_API_KEY, or ANTHROPIC_BASE_URL for a compatible server, or "
    "BURSAR_SIMULATOR=on for the built-in simulator (`make demo` does that)."
)


def require_shared(settings: Settings, role: Role) -> None:
    """Make sure that a process which is only a part of the service can reach the others.

    Raises:
        SettingsError: it has a database of its own.
    """
    if role is not Role.SERVE and settings.database_url is None:
        sentence = (
            f"The role `{role}` shares its tasks with other processes: set BURSAR_DATABASE_URL to a PostgreSQL "
            "database, or use `serve`, which needs none."
        )
        raise SettingsError([sentence])
