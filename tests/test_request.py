"""The values of a request: what the address that it was sent to tells of networks."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from castd.request import Local

LINK = (IPv4Network("10.0.0.0/24"), IPv4Network("10.1.0.0/16"))


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.9", True),
        ("10.0.0.1", "10.1.0.1", False),
        ("10.0.0.1", "192.0.2.1", False),
        # A port of all IPv6 addresses has the IPv4 networks of its interface as well.
        ("fd00::1", "fd00::2", False),
        ("fe80::1%eth0", "fd00::1", False),
        ("fe80::1%eth0", "10.0.0.1", False),
        ("fd00::1", "fd00::1", True),
    ],
)
def test_sharesNetwork(one: str, other: str, shared: bool) -> None:
    """Two addresses of the server share a network if they are one, or lie in one network of IPv4."""
    ours, its = Local(one, 69, networks=LINK), Local(other, 69, networks=LINK)
    assert (ours.sharesNetwork(its), its.sharesNetwork(ours)) == (shared, shared)
