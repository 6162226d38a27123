"""Tells the local network about a Wyoming server, so that Home Assistant offers it by itself (mDNS, RFC 6762)."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from zeroconf import IPVersion, ServiceInfo, Zeroconf

from speechrnn.errors import ConfigError, DeviceError

_SERVICE = "_wyoming._tcp.local."
_MAX_NAME_BYTES = 63
_ANY_OTHER = "224.0.0.251"  # the address of mDNS itself; nothing is sent to it here


@contextmanager
def announced(name: str, host: str, port: int) -> Iterator[None]:
    """Announce a server that listens there, 0.0.0.0 for everywhere; take it back at the end.

    Raises ConfigError for an address that only this machine can reach, or of IPv6, and for a name of more than 63
    bytes, and DeviceError without a network.
    """
    if len(name.encode()) > _MAX_NAME_BYTES:
        raise ConfigError(f"--zeroconf {name}: expected a name of at most {_MAX_NAME_BYTES} bytes")
    if ":" in host or ipaddress.ip_address(host).is_loopback:
        raise ConfigError(f"--zeroconf: {host} is not known to other machines; give --uri tcp://0.0.0.0:{port}")
    try:
        info = ServiceInfo(_SERVICE, f"{name}.{_SERVICE}", port=port, parsed_addresses=[_address(host)])
        network = Zeroconf(ip_version=IPVersion.V4Only)
    except OSError as error:
        raise DeviceError(f"--zeroconf: cannot reach the network ({str(error.strerror).lower()})") from None
    try:
        network.register_service(info, allow_name_change=True)
        yield
    finally:
        network.unregister_all_services()
        network.close()


def _address(host: str) -> str:
    """Where others reach the server: the address of the network that announcements go to."""
    if not ipaddress.ip_address(host).is_unspecified:
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((_ANY_OTHER, 1))
        return str(asking.getsockname()[0])
