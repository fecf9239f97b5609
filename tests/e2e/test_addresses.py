"""Servers with more than one address, and addresses of both kinds."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Serve
from tests.support.lab.castd import Shelf
from tests.support.lab.clients import SERVER, Client, atftp, busybox, curl, hpa
from tests.support.lab.clients import castd as own
from tests.support.lab.hall import Hall, ip
from tests.support.lab.wires import NEEDS, capturing
from tests.support.needs import need

pytestmark = [pytest.mark.e2e, pytest.mark.root]

SECOND, SIXTH, LINK, OWN_LINK = "10.77.0.2", "fd77::1", "fe80::77", "fe80::99"


@pytest.fixture(scope="module", autouse=True)
def castd(hall: Hall, serve: Serve) -> None:
    ip("addr", "add", f"{LINK}/64", "dev", "eth0", "nodad", netns=hall.hosts["server"].netns)
    serve(tftp={"port": 69}, six={"use": "tftp", "port": 69, "interface": "::"})


@pytest.mark.parametrize("server", [SERVER, SECOND])
def test_answersFromWhereAsked(hall: Hall, shelf: Shelf, server: str) -> None:
    """A server that listens everywhere answers each client from the address that the client asked."""
    need("busybox", *NEEDS)
    name = shelf.sized(100_000)
    (client,) = hall.clients(1)
    with capturing(hall, "server", "udp and src net 10.77.0.0/24") as capture:
        assert busybox.get(client, name, server=server).result().data == shelf[name]
    sources = {source for (source,) in capture.rows("ip.src")}
    assert sources == {server}


@pytest.mark.parametrize("client", [curl, atftp, hpa], ids=lambda client: client.program[0])
def test_six(hall: Hall, shelf: Shelf, client: Client) -> None:
    """A file is read over IPv6."""
    need(client.program[0])
    name = shelf.sized(100_000)
    (host,) = hall.clients(1)
    assert client.get(host, name, server=SIXTH).result().data == shelf[name]


def test_sixPut(hall: Hall, shelf: Shelf) -> None:
    """A file is written over IPv6."""
    need("curl")
    data = shelf[shelf.sized(100_000)]
    (host,) = hall.clients(1)
    assert curl.put(host, "create/six", data, server=SIXTH).result().code == 0
    assert (hall.folder / "create" / "six").read_bytes() == data


@pytest.mark.parametrize("zone", ["%eth0", "%25eth0"])
def test_linkLocal(hall: Hall, shelf: Shelf, zone: str) -> None:
    """
    A link-local address is asked in its zone, by get and by put, from another one, too, and also where the URL has the
    percent sign encoded.
    """
    name = shelf.sized(100_000)
    host = hall.host(f"two{len(zone)}")
    # A second network, where an address without its zone would be looked for.
    ip(
        netns=host.netns,
        batch=[
            "link add eth1 type bridge",
            "link set eth1 up",
            "route add fe80::/64 dev eth1 metric 1",
            f"addr add {OWN_LINK}/64 dev eth0 nodad",
        ],
    )
    link = f"link-{len(zone)}"
    got = own.get(host, name, server=LINK + zone).result()
    assert got.data == shelf[name], got.text
    bound = own.get(host, name, "--bind", f"{OWN_LINK}%eth0", server=LINK + zone).result()
    assert bound.data == shelf[name], bound.text
    put = own.put(host, f"create/{link}", shelf[name], server=LINK + zone).result()
    assert put.code == 0, put.text
    assert (hall.folder / "create" / link).read_bytes() == shelf[name]
