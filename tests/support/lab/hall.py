"""
Builds a network of namespaces: a switch, a server and its clients, each in a network namespace of its own.

    with Hall(folder) as hall:
        server, client = hall.host("server", "10.77.0.1"), hall.host("c1")
        client.run(["curl", ...])

Names carry the pid of the test run, so runs beside each other do not meet, and a run that was killed
is swept away by the next one.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.support.jobs import Done, Job, eventually
from tests.support.needs import needed, run

PREFIX = "castd-e2e-"
BRIDGE = "br0"
FOLDER = Path(__file__).parent
FORWARDING = "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"
NO_ICMP = """
table inet silence {
 chain out {
  type filter hook output priority 0;
  icmp type destination-unreachable counter drop
  icmpv6 type packet-too-big counter drop
 }
}
"""
MASQUERADE = """
table ip nat {
 chain out {
  type nat hook postrouting priority 100;
  oifname "eth0" masquerade
 }
}
"""
PROBE = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('239.77.255.255', 9))"
REACH = """
import socket, sys
link = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
link.settimeout(0.2)
link.connect((sys.argv[1], 9))
for _ in range(100):
    try:
        link.send(b"")
        link.recv(1)
    except ConnectionRefusedError:
        sys.exit(0)
    except OSError:
        pass
sys.exit("nobody answers")
"""
"""Asks the port 9, which is closed, until its host says so."""
_numbers = itertools.count(1)


def ip(*words: str, netns: str | None = None, batch: Sequence[str] = ()) -> str:
    """Run ip(8), once or with a list of commands; its complaint becomes the exception's text."""
    argv = ["ip", *(("-n", netns) if netns else ()), *(("-batch", "-") if batch else ()), *words]
    done = run(*argv, seconds=20, input="\n".join(batch))
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()} {list(batch)}")
    return done.stdout


def sweep() -> None:
    """Delete the namespaces of runs that have ended."""
    for line in ip("netns", "list").splitlines():
        found = re.match(rf"({PREFIX}(\d+)-\S+)", line)
        if found and not Path("/proc", found[2]).exists():
            ip("netns", "del", found[1])


def wire(name: str, netns: str) -> str:
    """
    Return the command that makes a wire: at this end C{name}, at the other C{eth0} of a namespace.

    One segment to a packet: what the kernel would split later is lost and counted packet by packet here.
    """
    return f"link add {name} gso_max_segs 1 type veth peer name eth0 gso_max_segs 1 netns {netns}"


def addressed(interface: str, addresses: Sequence[str], prefix: int = 16) -> list[str]:
    """Return the commands that give an interface its addresses, and switch it on; C{prefix} is that of IPv4."""
    return [
        *(
            f"addr add {a}/64 dev {interface} nodad" if ":" in a else f"addr add {a}/{prefix} dev {interface}"
            for a in addresses
        ),
        f"link set {interface} up",
    ]


class Counters(NamedTuple):
    """What the wire between a host and the switch has carried, in frames and in octets with their Ethernet headers."""

    sent: int
    sentOctets: int
    heard: int
    heardOctets: int

    def since(self, before: Counters) -> Counters:
        return Counters(*(now - then for now, then in zip(self, before, strict=True)))


class Hall:
    """
    The switch, and the hosts that are connected to it.

    @ivar folder: where logs, captures and clients' files are put.
    @ivar netns: the switch's namespace.  Each host's end of a wire is there an interface with the host's name.
    """

    def __init__(self, folder: Path, snooping: bool = False) -> None:
        """
        @param snooping: forward a group to those only who have joined it, and ask for members, as switches in
            server rooms do.
        """
        self.folder, self.snooping = folder, snooping
        self.tag = f"{PREFIX}{os.getpid()}-{next(_numbers)}"
        self.netns = f"{self.tag}-switch"
        self.hosts: dict[str, Host] = {}
        self._plugged: list[str] = []
        self._routes: list[str] = []
        self._logs = itertools.count(1)
        self._life = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as life:
            self.addNamespace(self.netns, life)
            snooping = f"mcast_snooping {int(self.snooping)}"
            # In two steps: the querier keeps quiet for one interval of those that hold when it is switched on.
            ip(
                netns=self.netns,
                batch=[
                    f"link add {BRIDGE} type bridge {snooping} mcast_query_response_interval 50",
                    f"link set {BRIDGE} type bridge mcast_querier {int(self.snooping)}",
                    f"addr add 10.77.255.254/16 dev {BRIDGE}",
                    f"link set {BRIDGE} up",
                    f"route add default dev {BRIDGE}",
                ],
            )
            self._life = life.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._life.close()

    def addNamespace(self, name: str, life: contextlib.ExitStack | None = None) -> None:
        ip("netns", "add", name)
        (life or self._life).callback(ip, "netns", "del", name)
        ip("link", "set", "lo", "up", netns=name)

    def host(self, name: str, *addresses: str) -> Host:
        """
        Plug a host in.

        @param addresses: of IPv4 and IPv6, the first of each kind being the one it speaks from; without any, the
            next 10.77.1.x and fd77::1:x.
        """
        number = len(self.hosts) + 1
        addresses = addresses or (f"10.77.1.{number}", f"fd77::1:{number}")
        netns = f"{self.tag}-{name}"
        self.addNamespace(netns)
        self._plugIn(name, netns, addresses)
        host = self.hosts[name] = Host(self, name, netns, addresses)
        return host

    def _plugIn(self, port: str, netns: str, addresses: Sequence[str], mac: str | None = None) -> None:
        """Connect a namespace, by an interface C{eth0} with these addresses, to a new port of the switch."""
        ip(netns=self.netns, batch=[wire(port, netns), f"link set {port} master {BRIDGE} up"])
        if mac is not None:
            ip("link", "set", "eth0", "address", mac, netns=netns)
        ip(netns=netns, batch=[*addressed("eth0", addresses), "route add default dev eth0", *self._routes])
        self.forwarding(port)
        self._plugged.append(netns)

    def unplug(self, name: str) -> None:
        """Take a host's interface away, with all its addresses."""
        ip("link", "del", name, netns=self.netns)

    def plugAnew(self, name: str) -> None:
        """Give a host that was unplugged another interface, which has the name and all addresses of the one before."""
        host = self.hosts[name]
        self._plugIn(name, host.netns, host.addresses, host.mac)

    def beyond(self, name: str, mtu: int, icmp: bool = True, groups: Sequence[str] = (), nat: bool = False) -> Host:
        """
        Add a host behind a router, whose wire to the host has this MTU.  The router is at the switch, at a port with
        the host's name.

        @param icmp: the router says when a datagram is too large; if not, as where a firewall drops that, nobody does.
        @param groups: those that the router forwards to the host, if the server of 10.77.0.1 sends to them.
        @param nat: the router gives all IPv4 datagrams from the host its own address at the switch, L{Host.outside}.
        """
        number = len(self.hosts) + 1
        router, netns = f"{self.tag}-{name}-router", f"{self.tag}-{name}"
        self.addNamespace(router)
        self.addNamespace(netns)
        near, far = (f"10.77.200.{number}", f"fd77::200:{number}"), (f"10.78.{number}.2", f"fd78:0:0:{number}::2")
        gates = (f"10.78.{number}.1", f"fd78:0:0:{number}::1")
        self._plugIn(name, router, near)
        ip(netns=router, batch=[wire("eth1", netns), *addressed("eth1", gates, 24), f"link set eth1 mtu {mtu}"])
        toward = [f"route add default via {gate}" for gate in gates]
        ip(netns=netns, batch=[*addressed("eth0", far, 24), f"link set eth0 mtu {mtu}", *toward])
        run("ip", "netns", "exec", router, "sh", "-c", FORWARDING, check=True)
        for wanted, rules in ((not icmp, NO_ICMP), (nat, MASQUERADE)):
            if wanted:
                run("ip", "netns", "exec", router, *needed(["nft", "-f", "-"]), input=rules, check=True)
        if groups:
            words = [sys.executable, str(FOLDER / "route_groups.py"), "eth0", "eth1", "10.77.0.1", *groups]
            self.start(words, router).until("routing", 10)
        routes = [f"route add 10.78.{number}.0/24 via {near[0]}", f"route add fd78:0:0:{number}::/64 via {near[1]}"]
        for plugged in self._plugged[:-1]:
            ip(netns=plugged, batch=routes)
        self._routes += routes
        host = self.hosts[name] = Host(self, name, netns, far, router, near[0] if nat else None)
        return host

    def clients(self, count: int) -> list[Host]:
        """The hosts c1 … c<count>, plugged in when first asked for."""
        names = [f"c{number}" for number in range(1, count + 1)]
        return [self.hosts[name] if name in self.hosts else self.host(name) for name in names]

    def tap(self, name: str) -> None:
        """Plug in the wire of an emulated machine: an interface of this name, in the switch's namespace."""
        ip(netns=self.netns, batch=[f"tuntap add {name} mode tap", f"link set {name} master {BRIDGE} up"])

    def forwarding(self, port: str) -> None:
        """Wait until the switch forwards what comes from this wire."""

        def state() -> bool:
            shown = run("bridge", "-n", self.netns, "-j", "link", "show", "dev", port, check=True)
            return bool(json.loads(shown.stdout)[0]["state"] == "forwarding")

        eventually(state, f"the switch to forward from {port}", 5)

    def snoops(self) -> None:
        """Wait until groups go to their members only; a switch sends them everywhere until its querier has spoken."""
        port = next(iter(self.hosts))
        words = [sys.executable, "-c", PROBE]

        def withheld() -> bool:
            before = self.counters(port)
            self.start(words).finish(10)
            return self.counters(port).since(before).heard == 0

        eventually(withheld, "the switch to withhold a group that nobody has joined", 10)

    def counters(self, port: str) -> Counters:
        """What a host has sent and heard, as counted by the switch at the other end of the wire."""
        stats = json.loads(ip("-s", "-j", "link", "show", "dev", port, netns=self.netns))[0]["stats64"]
        heard, sent = stats["tx"], stats["rx"]
        return Counters(sent["packets"], sent["bytes"], heard["packets"], heard["bytes"])

    def start(self, argv: Sequence[str], netns: str | None = None, **more: Any) -> Job:
        """Start a program in a namespace, the switch's by default; it is ended with the hall."""
        program = Path(argv[0]).name
        log = self.folder / f"{next(self._logs):03}-{(netns or self.netns).removeprefix(self.tag)[1:]}-{program}.log"
        more.setdefault("cwd", self.folder)
        return self._life.enter_context(Job(["ip", "netns", "exec", netns or self.netns, *needed(argv)], log, **more))


class Host:
    """
    One machine of the hall, with the interface C{eth0}.

    @ivar folder: its own, for the files it fetches.
    @ivar outside: the IPv4 address that others see.
    @ivar mac: the hardware address that others see: of its C{eth0}, or of the router that it is behind.
    """

    def __init__(
        self,
        hall: Hall,
        name: str,
        netns: str,
        addresses: tuple[str, ...],
        router: str | None = None,
        outside: str | None = None,
    ) -> None:
        self.hall, self.name, self.netns, self.addresses = hall, name, netns, addresses
        self.outside = outside or addresses[0]
        self.mac = str(json.loads(ip("-j", "link", "show", "dev", "eth0", netns=router or netns))[0]["address"])
        self.folder = hall.folder / name
        self.folder.mkdir()

    def start(self, argv: Sequence[str], **more: Any) -> Job:
        """Start a program here, in the host's folder."""
        return self.hall.start(argv, self.netns, **{"cwd": self.folder, **more})

    def run(self, argv: Sequence[str], seconds: float = 30) -> Done:
        """Start a program here and wait for its end."""
        return self.start(argv).finish(seconds)

    def counters(self) -> Counters:
        return self.hall.counters(self.name)

    def reach(self, address: str) -> None:
        """
        Wait until another host answers, so that each on the way knows its neighbours: else the first datagram may wait
        as long as a client does before it asks again, and both come at once.
        """
        assert self.run([sys.executable, "-c", REACH, address]).code == 0
