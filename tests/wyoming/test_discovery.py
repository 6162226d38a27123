"""What the local network is told of a server."""

from __future__ import annotations

import socket

import pytest
from zeroconf import IPVersion, ServiceInfo, Zeroconf

from speechrnn.errors import ConfigError, DeviceError
from speechrnn.wyoming import discovery
from speechrnn.wyoming.discovery import announced

SERVICE = "_wyoming._tcp.local."


def _local_address() -> str | None:
    """The address of the network that announcements go to, if there is one."""
    try:
        return discovery._address("0.0.0.0")
    except OSError:
        return None


@pytest.mark.slow
@pytest.mark.skipif(_local_address() is None, reason="no network that takes announcements")
def test_a_server_is_found_with_its_port_while_it_is_announced_and_not_after() -> None:
    name = f"speechrnn of a test.{SERVICE}"
    asking = Zeroconf(ip_version=IPVersion.V4Only)
    try:
        with announced("speechrnn of a test", "0.0.0.0", 10499):
            info = ServiceInfo(SERVICE, name)
            assert info.request(asking, 10000)
            assert (info.port, info.parsed_addresses()) == (10499, [_local_address()])
        assert not ServiceInfo(SERVICE, name).request(asking, 500)
    finally:
        asking.close()


def test_a_server_at_one_address_is_announced_there() -> None:
    assert discovery._address("192.0.2.7") == "192.0.2.7"


def test_a_name_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a name of at most 63 bytes"):
        announced("ü" * 32, "192.0.2.7", 1).__enter__()


def test_without_a_network_the_error_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", fails)
    with pytest.raises(DeviceError, match=r"--zeroconf: cannot reach the network \(network is unreachable\)"):
        announced("a", "0.0.0.0", 1).__enter__()
