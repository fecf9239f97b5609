"""Machines on one network get what is theirs, and what they upload comes to their place; an unknown one is as all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab.castd import Server
from tests.support.lab.clients import SERVER, atftp, curl
from tests.support.lab.hall import Hall, Host
from tests.support.lab.machines import sayDhcp
from tests.support.needs import lack, need
from tests.support.pxe import discover

pytestmark = [pytest.mark.e2e, pytest.mark.root]


@pytest.fixture(scope="module")
def machines(hall: Hall) -> list[Host]:
    """Three machines on one network; nothing of the third is on castd's disk."""
    need("curl", "atftp")
    return hall.clients(3)


def dashes(host: Host) -> str:
    return host.mac.replace(":", "-")


@contextlib.contextmanager
def serving(hall: Hall, **given: Any) -> Iterator[Path]:
    """castd with a folder for each machine and architecture, and a common one behind them; -> where all lie."""
    place = hall.folder / f"place-{len(list(hall.folder.iterdir()))}"
    for name in ("machines", "arch", "common", "uploads", "unknown"):
        (place / name).mkdir(parents=True)
    (place / "common" / "config").write_bytes(b"for all")
    service = {
        "castd": 1,
        "content": [
            {"directory": {"path": f"{place}/machines/{{mac}}"}},
            {"directory": {"path": f"{place}/arch/{{arch}}"}},
            {"directory": {"path": f"{place}/common"}},
        ],
        "uploads": [
            {"directory": {"path": f"{place}/uploads/{{mac}}/{{arch}}", "make-directories": True, "policy": "number"}},
            {"directory": {"path": f"{place}/unknown", "policy": "number"}},
        ],
        "access": [{"allow": "any"}],
        "transports": {
            "tftp": {"port": 69, "interface": SERVER},
            "proxydhcp": {"interface": SERVER, "rules": [{"boot": "config"}]},
        },
        "limits": {"drain": "1 s"},
        **given,
    }
    server = Server(hall.hosts["server"], service)
    try:
        yield place
    finally:
        server.stop()


def test_neighbours(hall: Hall, machines: list[Host]) -> None:
    """By the kernel's neighbours, and by what machines say when they boot."""
    first, second, third = machines
    with serving(hall) as place:
        (place / "machines" / dashes(first)).mkdir()
        (place / "machines" / dashes(first) / "config").write_bytes(b"for the first")
        (place / "arch" / "efi-x64").mkdir()
        (place / "arch" / "efi-x64" / "config").write_bytes(b"for its kind")
        for host in (first, second):
            sayDhcp(host, discover(host.mac))
        assert curl.get(first, "config").result().data == b"for the first"
        assert atftp.get(second, "config").result().data == b"for its kind"
        assert curl.get(third, "config").result().data == b"for all"
        for host in (first, first, second, third):
            assert curl.put(host, "log", host.name.encode()).result().code == 0
        stored = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("log*")}
        assert stored == {
            f"uploads/{dashes(first)}/efi-x64/log": first.name.encode(),
            f"uploads/{dashes(first)}/efi-x64/log.1": first.name.encode(),
            f"uploads/{dashes(second)}/efi-x64/log": second.name.encode(),
            "unknown/log": third.name.encode(),
        }


def test_leases(hall: Hall, machines: list[Host]) -> None:
    """By a DHCP server's leases alone, as they are at the request."""
    first, second, third = machines
    file = hall.folder / "leases"
    file.write_text("")
    leases = {"neighbours": False, "leases": [{"path": str(file), "format": "dnsmasq"}]}
    with serving(hall, machines=leases) as place:
        for host in (first, second):
            (place / "machines" / dashes(host)).mkdir()
            (place / "machines" / dashes(host) / "config").write_bytes(host.name.encode())
        assert curl.get(first, "config").result().data == b"for all"
        file.write_text("".join(f"0 {host.mac} {host.addresses[0]} * *\n" for host in (first, second)))
        # What was read counts as known for a second.
        first.run(["sleep", "1.1"])
        assert curl.get(first, "config").result().data == first.name.encode()
        assert atftp.get(second, "config").result().data == second.name.encode()
        assert curl.get(third, "config").result().data == b"for all"


TEMPLATE = """#!ipxe
{% if "stuck" in name %}{% for _ in range(90000) %}{% for _ in range(90000) %}{% endfor %}{% endfor %}{% endif %}
kernel tftp://{{ server }}/{{ machine.kernel | default("common") }} {{ mac }}
"""


def test_template(hall: Hall, machines: list[Host]) -> None:
    """One template is another file for each machine; one that loops without end is ended, and others are served."""
    if find_spec("jinja2") is None:
        lack("Jinja2 is not installed: castd[template]")
    first, second, third = machines
    folder = hall.folder / "templates"
    folder.mkdir()
    (folder / "boot.j2").write_text(TEMPLATE)
    (folder / "inventory.yaml").write_text(
        f"groups: {{lab: {{kernel: lab}}}}\nmachines:\n"
        f"  {first.mac}: {{kernel: own}}\n  {second.mac}: {{groups: [lab]}}\n"
    )
    common = {"file": str(folder / "boot.j2"), "inventory": str(folder / "inventory.yaml")}
    content = [
        {"template": {**common, "names": ["boot.ipxe"]}},
        {"template": {**common, "names": ["stuck"], "timeout": "1 s"}},
    ]
    with serving(hall, content=content):
        expected = {first: "own", second: "lab", third: "common"}
        # The first request may wait for the start of a process.
        assert curl.get(first, "boot.ipxe").result().code == 0
        stuck = curl.get(third, "stuck")
        got = {host: (atftp.get(host, "boot.ipxe").result(20).data or b"").decode() for host in machines}
        for host, kernel in expected.items():
            assert got[host].splitlines()[-1] == f"kernel tftp://{SERVER}/{kernel} {host.mac}"
        refused = stuck.result(30)
        assert (refused.data or b"", refused.code != 0) == (b"", True), refused.text
        assert refused.seconds < 15
        (folder / "inventory.yaml").write_text(f"machines:\n  {third.mac}: {{kernel: new}}\n")
        assert b"/new " in (curl.get(third, "boot.ipxe").result().data or b"")
        assert b"/common " in (curl.get(first, "boot.ipxe").result().data or b"")
