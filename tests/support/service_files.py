"""
Draws service files at random, from a vocabulary of all sections, for a server at 10.0.0.1 and 10.1.0.1.

The folder of the service file has the directories C{boot}, C{other}, C{images} and C{captures} with files, C{drop} and
C{drop/more} for uploads, a file C{leases}, and a template C{t.j2}.  Port 71 is another program's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

BOOT, OTHER = bytes(range(256)) * 8, bytes(range(255, -1, -1)) * 6
#: The port that another program has.
TAKEN = 71
#: Addresses of clients, and the MAC that the file of leases has for the first.
CLIENTS = tuple(f"10.0.0.{number}" for number in (9, 20, 33, 70))
MAC = "52:54:00:66:00:10"


def furnish(folder: Path) -> None:
    """Make the directories and files that the service files name."""
    for name in ("boot", "other", "images/deep", "captures", "drop/more"):
        (folder / name).mkdir(parents=True)
    for name, body in (("boot/file", BOOT), ("boot/second", OTHER), ("other/file", OTHER), ("images/deep/x", BOOT[:9])):
        (folder / name).write_bytes(body)
    (folder / "leases").write_text(f"0 {MAC} {CLIENTS[0]} one *\n")
    (folder / "t.j2").write_text("{{ mac }}")


def _some(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw some of these keys, which have C{-} for C{_}."""
    chosen = st.fixed_dictionaries({}, optional={key.replace("_", "-"): each for key, each in optional.items()})
    return chosen.map(dict)


_SOURCES = (
    {"directory": {"path": "boot"}},
    {"directory": {"path": "other"}},
    {"directory": {"path": "images", "under": "images"}},
    {"directory": {"path": "other", "strip": ["/tftpboot/"], "ignore-case": True}},
    {"directory": {"path": "boot", "networks": ["10.0.0.0/28"]}},
    {"directory": {"path": "boot", "rewrite": [{"from": "^x-(.*)", "to": r"\1"}]}},
    {"template": {"file": "t.j2", "names": ["any.cfg", "{mac}.cfg"]}},
)
_SINKS = (
    {"directory": {"path": "drop", "keep-free": 0}},
    {"directory": {"path": "drop", "keep-free": 0, "policy": "overwrite"}},
    {"directory": {"path": "drop/more", "under": "more", "keep-free": 0, "max-size": 1000}},
    {"directory": {"path": "drop", "keep-free": 0, "policy": "number", "make-directories": True}},
)
_RULES = (
    {"allow": "any"},
    {"allow": "any", "for": "read"},
    {"allow": "10.0.0.0/24", "names": ["file", "up*"]},
    {"deny": "10.0.0.32/27"},
    {"allow": "any", "mac": ["52:54:00"], "for": "write"},
)
_PROFILES = (
    {"stock": False},
    {"own": [{"name": "slow", "match": {"clients": "10.0.0.0/27"}, "windowsize": 1, "blksize": 700}]},
    {"own": [{"name": "known", "match": {"mac": ["52:54:00"]}, "without": ["tsize"], "oack": False}]},
    {"own": [{"name": "mends", "match": {"names": ["y-*"]}, "rewrite": [{"from": "^y-", "to": ""}]}], "stock": False},
)
_MACHINES = ({"neighbours": False}, {"neighbours": False, "leases": [{"path": "leases", "format": "dnsmasq"}]})

_limits = _some(
    casts=st.sampled_from([3, 200]),
    receivers=st.sampled_from([3, 300]),
    per_peer=st.sampled_from([1, 64]),
    new_per_peer=st.sampled_from(["2/s", "50/s"]),
    errors_per_peer=st.sampled_from(["1/s", "20/s"]),
    errors=st.sampled_from(["10/s", "200/s"]),
    rate=st.sampled_from(["50 kB/s", "1 MB/s"]),
    memory=st.sampled_from(["1 MiB", "4 MiB"]),
    drain=st.sampled_from(["1 s", "5 s"]),
)
_tftp = _some(
    blksize=st.sampled_from([600, 1400]),
    windowsize=st.sampled_from([1, 8]),
    timeout=st.sampled_from(["500 ms", "2 s"]),
    silence=st.sampled_from(["3 s", "12 s"]),
    single_port=st.booleans(),
    ports=st.sampled_from(["40000-40099", "40100-40109"]),
    broadcast=st.booleans(),
    rate=st.just("200 kB/s"),
    without=st.just([{"clients": "10.0.0.0/28", "options": ["tsize"]}]),
    caps=st.just([{"clients": "10.0.0.16/28", "blksize": 512, "windowsize": 2}]),
)
_multicast = _some(
    groups=st.sampled_from(["239.255.7.0/31", "239.255.7.0/29", "239.255.8.0/31"]),
    data_port=st.sampled_from([1758, 1999]),
    blksize=st.sampled_from([512, 1024]),
    deaf_for=st.sampled_from(["2 s", "40 s"]),
    loopback=st.booleans(),
    caps=st.just([{"clients": "10.0.0.16/28", "blksize": 500}]),
).map(lambda options: {"use": "multicast", "clients": "any", **options})
_sbroadcast = _some(
    data_port=st.sampled_from([247, 300]), packets=st.sampled_from(["100/s", "2000/s"]), blksize=st.just(600)
).map(lambda options: {"use": "sbroadcast", "subnets": ["10.0.0.0/24"], **options})
_mtftp = _some(
    port=st.sampled_from([1759, 1760]), errors=st.booleans(), silence=st.just("4 s"), gather=st.sampled_from([0, 0.1])
)
_slam = _some(
    port=st.sampled_from([10000, 10001]),
    blksize=st.sampled_from([512, 800]),
    rate=st.just("1 MB/s"),
    file=st.sampled_from(["file", "second"]),
    group=st.sampled_from(["239.255.1.1:10000", "239.255.1.1:10001", "239.255.1.2:10000"]),
).map(lambda options: {"file": "file", **options})
_proxy = _some(
    port_67=st.booleans(),
    watch=st.booleans(),
    discovery=st.just("239.255.9.9"),
    answers=st.sampled_from(["2/s", "200/s"]),
    answers_per_machine=st.sampled_from(["0.25/s", "2/s"]),
)
_PROXY_RULES = (
    {"arch": "efi-x64", "boot": "file", "answer": "direct"},
    {"arch": "efi-x64", "boot": "second", "by": "plain"},
    {"boot": "file"},
)
_interface = st.sampled_from(["any", "10.0.0.1", "10.1.0.1"])


@st.composite
def _transports(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """Draw transports that do not clash: a port of the TFTP family or two, and some of the others."""
    found: dict[str, dict[str, Any]] = {}
    for number, port in enumerate(draw(st.sampled_from([(69,), (69,), (69, 70), (70,)]))):
        at = {"port": port, "interface": draw(_interface)}
        for name, options in (("groups", _multicast), ("subnets", _sbroadcast)):
            if draw(st.sampled_from([False, False, True])):
                found[f"{name}{number or ''}"] = {**draw(options), **at}
        if draw(st.sampled_from([True, True, True, False])) or not found:
            found[f"{draw(st.sampled_from(['plain', 'files']))}{number or ''}"] = {"use": "tftp", **draw(_tftp), **at}
    if draw(st.booleans()):
        files = {
            "file": "239.255.2.1:3001",
            **draw(_some(second=st.sampled_from(["239.255.2.2:3001", "239.255.2.3:9"]))),
        }
        found["mtftp"] = {"files": files, "clients": "any", **draw(_mtftp)}
    if draw(st.booleans()):
        found["slam"] = {"interface": draw(_interface), **draw(_slam)}
    if draw(st.booleans()) and any(each.get("use") == "tftp" for each in found.values()):
        rules = draw(st.lists(st.sampled_from(_PROXY_RULES), min_size=1, max_size=2, unique_by=repr))
        found["proxydhcp"] = {"interface": "10.0.0.1", "rules": rules, **draw(_proxy)}
    names = draw(st.permutations(sorted(found)))
    # The one that reads every request is the last at its port.
    return {name: found[name] for name in sorted(names, key=lambda name: found[name].get("use") == "tftp")}


def _fault(file: dict[str, Any], which: str) -> None:
    """Put a fault into a service file."""
    if which == "missing":
        file["content"] = [*file["content"], {"directory": {"path": "nowhere"}}]
    elif which == "limit":
        file["limits"] = {**file.get("limits", {}), "casts": 0}
    elif which == "taken":
        file["transports"]["late"] = {"use": "tftp", "port": TAKEN}
    elif which == "log":
        file["logging"] = {"json": "none/events"}
    elif which == "captures":
        file["recorder"] = {"directory": "none"}
    elif which == "listen":
        file["metrics"] = {"listen": "127.0.0.1:1"}
    else:
        file["transports"]["late"] = {"use": "tftp", "prot": 1}


@st.composite
def serviceFiles(draw: st.DrawFn, faults: bool = True) -> str:
    """Draw the text of a service file; C{faults}: some are wrong."""
    file: dict[str, Any] = {"castd": 1, "machines": draw(st.sampled_from(_MACHINES))}
    file["content"] = draw(st.lists(st.sampled_from(_SOURCES), min_size=1, max_size=3, unique_by=repr))
    if draw(st.booleans()):
        file["uploads"] = draw(st.lists(st.sampled_from(_SINKS), min_size=1, max_size=2, unique_by=repr))
    if draw(st.booleans()):
        file["access"] = draw(st.lists(st.sampled_from(_RULES), min_size=1, max_size=3, unique_by=repr))
        file["machines"] = {**file["machines"], "trusted": any("mac" in each for each in file["access"])}
    if draw(st.booleans()):
        file["limits"] = draw(_limits)
    if draw(st.booleans()):
        file["profiles"] = draw(st.sampled_from(_PROFILES))
    file["logging"] = draw(_some(level=st.sampled_from(["debug", "warn"]), json=st.sampled_from(["one", "two"])))
    file["metrics"] = draw(_some(listen=st.sampled_from(["127.0.0.1:9147", "127.0.0.1:9148"])))
    file["control"] = draw(_some(path=st.sampled_from(["control", "other-control"])))
    file["history"] = draw(_some(size=st.sampled_from(["1 MiB", "2 MiB"]), age=st.just("1 h")))
    if draw(st.booleans()):
        file["recorder"] = {"directory": "captures", **draw(_some(packets=st.sampled_from([4, 64])))}
    file["transports"] = draw(_transports())
    if faults and draw(st.sampled_from([False, False, False, True])):
        _fault(file, draw(st.sampled_from(["missing", "limit", "taken", "log", "captures", "listen", "key"])))
    return yaml.dump(file, Dumper=_Plain, sort_keys=False)


class _Plain(yaml.SafeDumper):
    """Writes what comes twice twice."""

    def ignore_aliases(self, data: object) -> bool:
        return True
