"""
Sets of networks, and the rules that are for the clients in them.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from castd.networks import ClientRules, Networks
from castd.options import AnyNetwork

#: Few networks that lie in each other, so that a client is in many of them.
NETWORKS = [
    ip_network(text)
    for text in (
        "0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.4/30", "10.0.0.5/32", "10.0.1.0/24",
        "::/0", "fd00::/8", "fd00::/64", "fd00::5/128", "fe80::/10",
    )
]  # fmt: skip
CLIENTS = ["10.0.0.5", "10.0.0.6", "10.0.1.5", "192.0.2.1", "fd00::5", "fd00:1::5", "fe80::1%eth0", "::ffff:10.0.0.5"]


@given(st.lists(st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=3), max_size=12), st.sampled_from(CLIENTS))
def test_rulesOfAClient(rules: list[list[AnyNetwork]], client: str) -> None:
    """The rules that are for a client are those whose networks it is in, once each, in the order of the file."""
    found = ClientRules((networks, name) for name, networks in enumerate(map(tuple, rules))).of(client)
    assert found == [(number, number) for number, networks in enumerate(rules) if client in Networks(networks)]


@given(st.lists(st.sampled_from(NETWORKS), max_size=6), st.sampled_from(CLIENTS))
def test_aSetOfNetworks(networks: list[AnyNetwork], client: str) -> None:
    """A client is in a set if it is in one of its networks; at an IPv6 socket the IPv4 address of a client counts."""
    plain = ip_address(client.removeprefix("::ffff:"))
    assert (client in Networks(networks)) == any(plain in network for network in networks)
