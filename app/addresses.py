"""Addresses that operators give: which can work, and how they are shown."""

import re
from urllib.parse import urlsplit

from pydantic import SecretStr

_LOGIN = re.compile(r"//[^/@]*@")


def postgres(value: SecretStr | None) -> SecretStr | None:
    """The address, if a database can be found at it.

    Raises:
        ValueError: none can.
    """
    if value is None:
        return None
    url = value.get_secret_value()
    if not url.startswith(("postgresql://", "postgres://")):
        message = "must begin with postgresql://"
        raise ValueError(message)
    if not _usable(url, needs_host=False):
        message = "must be an address such as postgresql://user:password@host:5432/name"
        raise ValueError(message)
    return value


def http(value: str | None) -> str | None:
    """The address, if a server can be found at it.

    Raises:
        ValueError: none can.
    """
    if value is None:
        return None
    if not value.startswith(("http://", "https://")):
        message = "must begin with http:// or https://"
        raise ValueError(message)
    if not _usable(value, needs_host=True):
        message = "must be an address such as https://host or http://host:8787"
        raise ValueError(message)
    return value


def without_login(text: str) -> str:
    """The text without the names and passwords of its addresses."""
    return _LOGIN.sub("//********@", text)


def _usable(url: str, *, needs_host: bool) -> bool:
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) or not needs_host
        return named and parts.port != 0 and not re.search(r"\s", url)
    except ValueError:  # brackets or a port that do not parse
        return False
