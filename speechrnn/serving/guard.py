"""Who may come in: those who name this server as it is known, from its own page or from no page."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "permissions-policy": "microphone=(self)",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


class Guard:
    """Keeps out who names another host, or comes from a page of another.

    A foreign page cannot come in even by a name of its own that it points at this machine: only addresses,
    `localhost`, this machine's name and those in `names` are known.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names = {"localhost", socket.gethostname().lower(), *(name.lower() for name in names)}

    def problem(self, headers: Mapping[str, str]) -> str | None:
        """Why a request with these headers is refused; None if it is not."""
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        if not self._is_known(host):
            return f"expected a name of this server, got {host or 'none'}; start it with --name NAME"
        if origin is not None and _host_of(origin.lower()) != host:
            return f"expected a page of this server, got one of {origin}"
        return None

    def _is_known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self._names or bool(ipaddress.ip_address(name))
        except ValueError:
            return False


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None
