"""Real clients that profiles know get what the profiles say, whole, and the events say so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.jobs import eventually
from tests.support.lab.castd import Server, Shelf
from tests.support.lab.clients import SERVER, atftp, curl
from tests.support.lab.hall import Hall, Host
from tests.support.needs import need

pytestmark = [pytest.mark.e2e, pytest.mark.root]

SIZE = 5000
OWN = [
    {"name": "plain", "match": {"like": "curl", "names": ["plain"]}, "oack": False},
    {"name": "small", "match": {"asks": ["blksize"], "names": ["small"]}, "blksize": 700},
    {"name": "unicast", "match": {"like": "atftp"}, "without": ["multicast"]},
]


@pytest.fixture(scope="module")
def events(hall: Hall, shelf: Shelf) -> Iterator[Path]:
    """A server with profiles; -> the file of its events."""
    need("curl")
    need("atftp")
    for name in ("plain", "small", "junk"):
        (shelf.root / name).write_bytes(bytes(range(250)) * (SIZE // 250))
    file = hall.hosts["server"].folder / "events.json"
    server = Server(
        hall.hosts["server"],
        {
            "castd": 1,
            "content": [{"directory": {"path": str(shelf.root)}}],
            "logging": {"json": str(file)},
            "profiles": {"own": OWN},
            "transports": {
                "multicast": {"port": 69, "interface": SERVER},
                "tftp": {"port": 69, "interface": SERVER},
            },
        },
    )
    yield file
    server.stop()


@pytest.fixture(scope="module")
def client(hall: Hall, events: Path) -> Host:
    return hall.clients(1)[0]


def received(events: Path, name: str) -> dict[str, object]:
    """The event of the transfer of a file, which is over: its client has ended."""
    found: list[dict[str, object]] = []

    def told() -> bool:
        lines = map(json.loads, events.read_text().splitlines())
        found[:] = [each for each in lines if each["event"] == "received" and each["name"] == name]
        return bool(found)

    eventually(told, f"the event of {name}", 10.0)
    return found[-1]


def test_curlWithoutAnOack(client: Host, events: Path, shelf: Shelf) -> None:
    """curl, known by the order of its options, gets DATA at once where a profile forbids the OACK."""
    result = curl.get(client, "plain").result()
    assert (result.code, result.data) == (0, (shelf.root / "plain").read_bytes()), result.text
    event = received(events, "plain")
    assert (event["profiles"], event.get("granted"), event["blksize"]) == ("plain, curl", None, 512)


def test_curlWithSmallerBlocks(client: Host, events: Path, shelf: Shelf) -> None:
    """A profile bounds the block size of a request that asks for more."""
    result = curl.get(client, "small", "--tftp-blksize", "1428").result()
    assert (result.code, result.data) == (0, (shelf.root / "small").read_bytes()), result.text
    assert received(events, "small")["blksize"] == 700


def test_aNameWithJunk(client: Host, events: Path, shelf: Shelf) -> None:
    """A name with 0xff and more behind it finds its file, and the event has both names."""
    result = curl.get(client, "junk%FF%0A;o").result()
    assert (result.code, result.data) == (0, (shelf.root / "junk").read_bytes()), result.text
    assert "junk" in str(received(events, "junk")["sent_name"])


def test_atftpWithoutItsGroup(client: Host, events: Path, shelf: Shelf) -> None:
    """atftp, known by its options, is served by the plain tftp behind where a profile refuses `multicast`."""
    name = shelf.sized(3000)
    result = atftp.get(client, name, "--option", "multicast").result()
    assert (result.code, result.data) == (0, shelf[name]), result.text
    event = received(events, name)
    assert (event["transport"], event["profiles"]) == ("tftp", "unicast, atftp")
