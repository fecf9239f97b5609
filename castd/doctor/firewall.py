"""
Checks the firewall of this machine: which rule drops what castd receives and sends.

The rules are followed as the kernel does, for datagrams that stand for those of a transport.  Where a datagram may
match a rule or not, as with the address of a client, the answer is that it may.  C{True}, C{False} and C{None} are
these three answers.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, NamedTuple, TypeAlias

from castd.config.config import listening
from castd.doctor.findings import Finding, Subject
from castd.doctor.machine import IMachine
from castd.doctor.network import usedDevices
from castd.packets import dhcp
from castd.proxydhcp.options import Options as ProxyDhcpOptions

#: Plain data, as JSON has it.
_Data: TypeAlias = "bool | int | float | str | Sequence[_Data] | Mapping[str, _Data] | None"
_Expression: TypeAlias = "Mapping[str, _Data]"
Answer: TypeAlias = bool | None

_EPHEMERAL: Final = "/proc/sys/net/ipv4/ip_local_port_range"
_TABLES: Final = "/proc/net/ip_tables_names"
_IN: Final = ("ingress", "prerouting", "input")
_OUT: Final = ("output", "postrouting", "egress")
_NUMBERS: Final = {"udp": 17, "igmp": 2}
_VERDICTS: Final = ("accept", "drop", "reject", "return", "jump", "goto")
#: Expressions that every datagram passes.
_EFFECTS: Final = ("counter", "log", "comment", "notrack", "mangle", "meter")
#: Options of iptables that every datagram passes.
_SAVED_EFFECTS: Final = ("-m", "--comment", "--reject-with", "--log-prefix", "--log-level", "--set-mark")
#: Targets of iptables after which the walk goes on.
_SAVED_TARGETS: Final = ("LOG", "NFLOG", "MARK", "CONNMARK", "CT", "TRACE", "TCPMSS")
#: Chains that jump to each other deeper than the kernel allows.
_DEEPEST: Final = 16


class SampleDatagram(NamedTuple):
    """
    A datagram that stands for many.

    @ivar told: what it is, for a finding.
    @ivar hooks: those of the kernel that it passes, in order.
    @ivar state: of its connection: C{new} or C{established}.
    @ivar sport, dport: the ports that it may have.
    @ivar devices: the network interfaces that it may pass.
    """

    told: str
    hooks: tuple[str, ...]
    protocol: str
    family: int
    state: str
    sport: range
    dport: range
    devices: frozenset[str]


@dataclass
class Chain:
    """
    One chain of a table.

    @ivar hook: where the kernel begins with it; C{""}: other chains jump to it.
    @ivar rules: (handle, expressions) of each.
    """

    family: str
    table: str
    name: str
    hook: str = ""
    policy: str = "accept"
    rules: list[tuple[str, Sequence[_Expression]]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"table {self.family} {self.table}, chain {self.name}"


class Drop(NamedTuple):
    """A rule, or the policy of a chain, that drops a datagram; C{sure} is false where it may not match."""

    where: str
    sure: bool


Chains: TypeAlias = "Mapping[tuple[str, str, str], Chain]"


def lookAtFirewall(subject: Subject, machine: IMachine) -> Iterator[Finding]:
    """Find the rules that drop what comes to castd and what it sends."""
    ruleset = machine.run("nft", "-j", "list", "ruleset")
    legacy = machine.run("iptables-save") if (machine.text(_TABLES) or "").strip() or ruleset is None else ""
    if ruleset is None and legacy is None:
        yield Finding("not known", "which firewall rules there are", "run this as root, with nft or iptables-save")
        return
    chains = {**readRuleset(ruleset or "{}"), **readSaved(legacy or "")}
    found = set()
    for datagram in samples(subject, machine):
        for drop in drops(chains, datagram):
            found.add((drop.sure, drop.where, datagram.told))
    for sure, where, told in sorted(found, reverse=True):
        how = "iptables-save" if where.startswith("table iptables") else "nft -a list ruleset"
        cure = f"{how} shows it"
        yield (
            Finding("problem", f"{where} drops {told}", cure)
            if sure
            else Finding("not known", f"{where} may drop {told}", cure)
        )
    if not any(sure for sure, _, _ in found):
        yield Finding("fine", f"none of the {_ruleCount(chains)} rules of this machine surely drops what castd needs")
    yield Finding("not known", "firewalls of other machines on the way", "castd get on a machine beside the clients")


def _ruleCount(chains: Chains) -> int:
    return sum(len(chain.rules) for chain in chains.values())


def samples(subject: Subject, machine: IMachine) -> Iterator[SampleDatagram]:
    """Return datagrams that stand for those of each transport."""
    first, last = (int(each) for each in (machine.text(_EPHEMERAL) or "32768 60999").split())
    devices = frozenset(usedDevices(subject, machine))
    others = range(1024, 65536)
    for entry, options in listening(subject.config):
        family = 6 if ":" in options.interface else 4
        asked = range(options.port, options.port + 1)
        own = options.transferPorts() or range(first, last + 1)
        told = f"requests to UDP port {options.port}"
        yield SampleDatagram(told, _IN, "udp", family, "new", others, asked, devices)
        if own != asked:
            told = f"acknowledgements to the UDP ports of {entry.name}'s transfers"
            yield SampleDatagram(told, _IN, "udp", family, "established", others, own, devices)
        yield SampleDatagram(f"what {entry.name} sends", _OUT, "udp", family, "new", own, others, devices)
    for entry in subject.config.transports:
        if isinstance(entry.options, ProxyDhcpOptions):
            yield from _dhcpSamples(entry.options, devices)


def _dhcpSamples(options: ProxyDhcpOptions, devices: frozenset[str]) -> Iterator[SampleDatagram]:
    for port in (dhcp.SERVER_PORT, dhcp.BOOT_PORT) if options.port67 else (dhcp.BOOT_PORT,):
        told, asked = f"requests to UDP port {port}", range(port, port + 1)
        yield SampleDatagram(told, _IN, "udp", 4, "new", range(dhcp.CLIENT_PORT, 65536), asked, devices)
    # The one group that castd itself is a member of; to the others it only sends.
    for told, hooks in (("IGMP queries", _IN), ("this machine's IGMP reports", _OUT)) if options.discovery else ():
        yield SampleDatagram(told, hooks, "igmp", 4, "new", range(0), range(0), devices)


def drops(chains: Chains, datagram: SampleDatagram) -> list[Drop]:
    """Follow a datagram through all chains that its hooks begin with."""
    found = []
    for hook in datagram.hooks:
        for chain in chains.values():
            if chain.hook == hook and _concerns(chain.family, datagram.family):
                walk = _Walk(chains, datagram)
                walk.follow(chain)
                found += walk.found
    return found


def _concerns(family: str, version: int) -> bool:
    return family in ("inet", "netdev", *(("ip", "iptables") if version == 4 else ("ip6",)))


class _Walk:
    """
    Follows one datagram through one hook's chain.

    @ivar found: what drops it.
    """

    def __init__(self, chains: Chains, datagram: SampleDatagram) -> None:
        self.found: list[Drop] = []
        self._chains = chains
        self._datagram = datagram
        #: A rule before may have ended the walk.
        self._isDoubtful = False
        #: The walk is in a chain that it may not come to.
        self._isAside = False

    def follow(self, chain: Chain) -> None:
        """Follow it through a chain that the kernel begins with."""
        if not self._ends(chain, 0) and chain.policy == "drop":
            self.found.append(Drop(f"{chain}, policy", not self._isDoubtful))

    def _ends(self, chain: Chain, depth: int) -> bool:
        """Follow it through a chain.  -> whether a verdict in it surely ends the walk."""
        for handle, expressions in chain.rules:
            for matched, verdict in _verdictsOf(expressions, self._datagram):
                if matched is False:
                    continue
                kind, target = verdict
                if kind in ("jump", "goto"):
                    if self._jumpEnds(chain, target, matched, depth):
                        return True
                elif kind in ("drop", "reject"):
                    isSure = matched is True and not self._isDoubtful and not self._isAside
                    self.found.append(Drop(f"{chain}, rule {handle}", isSure))
                if matched is not True:
                    self._isDoubtful = self._isDoubtful or kind in ("accept", "return", "goto")
                elif kind in ("return", "goto"):
                    return False
                elif kind != "jump":
                    return True
        return False

    def _jumpEnds(self, chain: Chain, target: str, matched: Answer, depth: int) -> bool:
        """Follow it through a chain that a rule jumps to.  -> as L{_ends}."""
        there = self._chains.get((chain.family, chain.table, target))
        if there is None or depth >= _DEEPEST:
            return False
        if matched is True:
            return self._ends(there, depth + 1)
        before, self._isAside = self._isAside, True
        ended = self._ends(there, depth + 1)
        self._isAside = before
        # Where it may end there, it may not come to the rules behind.
        self._isDoubtful = self._isDoubtful or ended
        return False


def _verdictsOf(
    expressions: Sequence[_Expression], datagram: SampleDatagram
) -> Iterator[tuple[Answer, tuple[str, str]]]:
    """Return the verdicts of a rule, each with whether it comes to that; several where the rule has a map of them."""
    matched: Answer = True
    for each in expressions:
        ((key, value),) = list(each.items())[:1] or [("comment", None)]
        if key in _VERDICTS:
            target = value.get("target", "") if isinstance(value, Mapping) else ""
            yield matched, (key, str(target))
        elif key == "vmap":
            yield from _mapped(value, matched, datagram)
        elif key not in _EFFECTS:
            found = _matches(value, datagram) if key == "match" else None
            matched = False if found is False or matched is False else None if None in (found, matched) else True


def _mapped(value: _Data, matched: Answer, datagram: SampleDatagram) -> Iterator[tuple[Answer, tuple[str, str]]]:
    """Return the verdicts of a map, C{{vmap: {key: …, data: {set: [[value, verdict], …]}}}}."""
    pairs = _at(value, "data", "set")
    for pair in pairs if isinstance(pairs, list) else ():
        found = _matches({"op": "==", "left": _at(value, "key"), "right": pair[0]}, datagram)
        answer = found if matched is True or found is False else matched
        yield from ((answer, verdict) for _, verdict in _verdictsOf([pair[1]], datagram))
        if found is True:
            return


def _at(value: _Data, *keys: str) -> _Data:
    """Return what these keys lead to; L{None}: they do not."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _matches(match: _Data, datagram: SampleDatagram) -> Answer:
    """Return whether a datagram passes a comparison."""
    operator = _at(match, "op")
    if operator not in ("==", "!=", "in"):
        return None
    answer = _equals(_at(match, "left"), list(_alternatives(_at(match, "right"))), datagram)
    return answer if operator != "!=" or answer is None else not answer


def _alternatives(right: _Data) -> Iterator[_Data]:
    """Return the values of a set, a list, or a single value; a range as C{{"range": [first, last]}}."""
    inside = _at(right, "set") if isinstance(right, Mapping) else None
    if isinstance(inside, list):
        right = inside
    if isinstance(right, list):
        for each in right:
            yield from _alternatives(each)
    else:
        yield right


def _equals(left: _Data, values: list[_Data], datagram: SampleDatagram) -> Answer:
    """Return whether a field of a datagram has one of these values."""
    about = (_at(left, "payload", "protocol"), _at(left, "payload", "field"))
    if about[0] in ("udp", "tcp", "sctp", "dccp", "icmp", "icmpv6", "igmp", "th"):
        if about[0] not in ("th", datagram.protocol):
            return False
        ports = {"sport": datagram.sport, "dport": datagram.dport}.get(str(about[1]))
        return _portsIn(ports, values) if ports else None
    if about in (("ip", "protocol"), ("ip6", "nexthdr")):
        return _isAmong(datagram.protocol, values)
    if about[0] in ("ip", "ip6"):
        return None if (about[0] == "ip") == (datagram.family == 4) else False
    key = str(_at(left, "meta", "key") or _at(left, "ct", "key"))
    fields: dict[str, Callable[[], Answer]] = {
        "l4proto": lambda: _isAmong(datagram.protocol, values),
        "nfproto": lambda: f"ipv{datagram.family}" in values,
        "protocol": lambda: ("ip" if datagram.family == 4 else "ip6") in values,
        "state": lambda: None if "untracked" in values else datagram.state in values,
    }
    names = ("iifname", "iif") if datagram.hooks is _IN else ("oifname", "oif")
    if key in names:
        return _devicesIn(datagram.devices, values)
    return fields[key]() if key in fields else None


def _isAmong(protocol: str, values: list[_Data]) -> Answer:
    if not all(isinstance(each, int) or (isinstance(each, str) and each[:1] != "@") for each in values):
        return None
    return protocol in values or _NUMBERS[protocol] in values


def _portsIn(ports: range, values: Iterable[_Data]) -> Answer:
    """Return whether all of these ports are among the values; L{None}: some are, or it is not known."""
    answer: Answer = False
    for each in values:
        limits = _at(each, "range") if isinstance(each, Mapping) else [each, each]
        if not isinstance(limits, list) or not all(isinstance(number, int) for number in limits):
            answer = None
            continue
        first, last = limits
        if first <= ports[0] and ports[-1] <= last:
            return True
        if first <= ports[-1] and ports[0] <= last:
            answer = None
    return answer


def _devicesIn(devices: frozenset[str], values: list[_Data]) -> Answer:
    """Return whether all of these interfaces are among the values, such as C{eth0} or C{eth*}; L{None}: some are."""
    among = [any(fnmatchcase(device, str(each)) for each in values) for device in devices]
    if not devices or any(str(each).startswith("@") for each in values):
        return None
    return True if all(among) else None if any(among) else False


def readRuleset(text: str) -> dict[tuple[str, str, str], Chain]:
    """Read what C{nft -j list ruleset} prints."""
    chains: dict[tuple[str, str, str], Chain] = {}
    objects = json.loads(text).get("nftables", ())
    for each in (each["chain"] for each in objects if "chain" in each):
        key = each["family"], each["table"], each["name"]
        chains[key] = Chain(*key, each.get("hook", ""), each.get("policy", "accept"))
    for each in (each["rule"] for each in objects if "rule" in each):
        chain = chains[each["family"], each["table"], each["chain"]]
        chain.rules.append((f"handle {each['handle']}", each["expr"]))
    return chains


def readSaved(text: str) -> dict[tuple[str, str, str], Chain]:
    """Read what C{iptables-save} prints."""
    chains: dict[tuple[str, str, str], Chain] = {}
    table = ""
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith(":"):
            name, policy = words[0][1:], words[1].lower()
            hook = name.lower() if name.lower() in (*_IN, *_OUT) else ""
            chains["iptables", table, name] = Chain("iptables", table, name, hook, policy)
        elif words[:1] == ["-A"]:
            chain = chains["iptables", table, words[1]]
            chain.rules.append((str(len(chain.rules) + 1), list(_saved(words[2:]))))
    return chains


def _saved(words: list[str]) -> Iterator[_Expression]:
    """Turn a rule of iptables into expressions as nft has them; what is not known here may match or not."""
    for option, value, operator in _savedOptions(words):
        if option == "-p":
            yield _match({"meta": {"key": "l4proto"}}, value, operator)
        elif option in ("--dport", "--dports", "--sport", "--sports"):
            field = option.strip("-").removesuffix("s")
            yield _match({"payload": {"protocol": "th", "field": field}}, _savedPorts(value), operator)
        elif option in ("-i", "-o"):
            yield _match({"meta": {"key": f"{option[1]}ifname"}}, value.replace("+", "*"), operator)
        elif option in ("--state", "--ctstate"):
            yield _match({"ct": {"key": "state"}}, list(value.lower().split(",")), operator)
        elif option in ("-j", "-g"):
            yield _savedTarget(option, value)
        elif option not in _SAVED_EFFECTS:
            yield {"xt": None}


def _savedOptions(words: list[str]) -> Iterator[tuple[str, str, str]]:
    """Return each option with its value and its operator, which C{!} before it makes C{!=}."""
    operator = "=="
    for number, word in enumerate(words):
        if word == "!":
            operator = "!="
        elif word.startswith("-"):
            value = words[number + 1] if number + 1 < len(words) else ""
            yield word, "" if value.startswith("-") or value == "!" else value, operator
            operator = "=="


def _match(left: _Data, right: _Data, operator: str) -> _Expression:
    return {"match": {"op": operator, "left": left, "right": right}}


def _savedPorts(text: str) -> list[_Data]:
    """Read C{69}, C{69,1758} or C{30000:30100}."""
    pairs = [each.partition(":") for each in text.split(",")]
    return [{"range": [int(first), int(last or first)]} for first, _, last in pairs]


def _savedTarget(word: str, target: str) -> _Expression:
    if target.lower() in _VERDICTS:
        return {target.lower(): None}
    if target in _SAVED_TARGETS:
        return {"log": None}
    return {"jump" if word == "-j" else "goto": {"target": target}}
