"""castd doctor follows the rules of a firewall as the kernel does, and names the one that drops what castd needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castd.doctor.firewall import drops, lookAtFirewall, readRuleset, readSaved, samples
from tests.support.doctor import FakeMachine, findings, subject

TFTP = {"port": 69, "interface": "10.0.0.5"}


def match(left: Mapping[str, Any], right: object, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def dport(right: object, protocol: str = "udp", op: str = "==") -> dict[str, Any]:
    return match({"payload": {"protocol": protocol, "field": "dport"}}, right, op)


def meta(key: str, right: object, op: str = "==") -> dict[str, Any]:
    return match({"meta": {"key": key}}, right, op)


def vmap(left: Mapping[str, Any], *pairs: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {"vmap": {"key": left, "data": {"set": [list(each) for each in pairs]}}}


def state(*right: str) -> dict[str, Any]:
    return match({"ct": {"key": "state"}}, list(right), "in")


ACCEPT, DROP, RETURN = {"accept": None}, {"drop": None}, {"return": None}
COUNTER = {"counter": {"packets": 0, "bytes": 0}}
UNKNOWN = match({"payload": {"protocol": "ip", "field": "saddr"}}, "10.0.0.9")


def ruleset(*rules: list[dict[str, Any]], hook: str = "input", policy: str = "accept", **others: Any) -> str:
    """What nft prints of one chain that the kernel begins with, and of others that are jumped to."""
    chain = {"family": "inet", "table": "filter", "name": "base", "hook": hook, "policy": policy, "prio": 0}
    objects = [{"metainfo": {"json_schema_version": 1}}, {"chain": chain}]
    for name, inside in (("base", rules), *others.items()):
        if name != "base":
            objects.append({"chain": {"family": "inet", "table": "filter", "name": name}})
        for number, expressions in enumerate(inside, 1):
            rule = {"family": "inet", "table": "filter", "chain": name, "handle": number, "expr": expressions}
            objects.append({"rule": rule})
    return json.dumps({"nftables": objects})


def answer(tmp_path: Path, text: str, **transports: Any) -> str:
    """Return how the rules treat requests: C{passes}, C{drops} or C{may drop}."""
    machine = FakeMachine()
    datagram = next(iter(samples(subject(tmp_path, **(transports or {"tftp": TFTP})), machine)))
    found = drops(readRuleset(text), datagram)
    return "drops" if any(each.sure for each in found) else "may drop" if found else "passes"


TABLE = {
    "none": ([], "passes"),
    "port": ([[dport(69), COUNTER, DROP]], "drops"),
    "reject": ([[dport(69), {"reject": {"type": "icmpx"}}]], "drops"),
    "other port": ([[dport(70), DROP]], "passes"),
    "not this port": ([[dport(69, op="!="), DROP]], "passes"),
    "not another port": ([[dport(70, op="!="), DROP]], "drops"),
    "set": ([[dport({"set": [67, 69]}), DROP]], "drops"),
    "range": ([[dport({"range": [1, 100]}), DROP]], "drops"),
    "set with range": ([[dport({"set": [7, {"range": [60, 70]}]}), DROP]], "drops"),
    "range beside": ([[dport({"range": [70, 100]}), DROP]], "passes"),
    "named set": ([[dport("@ports"), DROP]], "may drop"),
    "tcp": ([[dport(69, "tcp"), DROP]], "passes"),
    "any transport": ([[dport(69, "th"), DROP]], "drops"),
    "protocol": ([[meta("l4proto", "udp"), DROP]], "drops"),
    "protocols": ([[meta("l4proto", {"set": ["tcp", 17]}), DROP]], "drops"),
    "other protocol": ([[meta("l4proto", "tcp"), DROP]], "passes"),
    "device": ([[meta("iifname", "eth0"), DROP]], "drops"),
    "devices": ([[meta("iifname", "eth*"), DROP]], "drops"),
    "other device": ([[meta("iifname", "lo"), DROP]], "passes"),
    "way out": ([[meta("oifname", "eth0"), DROP]], "may drop"),
    "client": ([[UNKNOWN, DROP]], "may drop"),
    "client, other port": ([[UNKNOWN, dport(70), DROP]], "passes"),
    "limit": ([[dport(69), {"limit": {"rate": 1}}, DROP]], "may drop"),
    "ip6": ([[match({"payload": {"protocol": "ip6", "field": "saddr"}}, "::1"), DROP]], "passes"),
    "invalid": ([[state("invalid"), DROP]], "passes"),
    "new": ([[state("new", "untracked"), DROP]], "may drop"),
    "accepted before": ([[dport(69), ACCEPT], [DROP]], "passes"),
    "accepted for some": ([[UNKNOWN, ACCEPT], [DROP]], "may drop"),
    "accepted too late": ([[DROP], [dport(69), ACCEPT]], "drops"),
    "map": ([[vmap({"ct": {"key": "state"}}, ("invalid", DROP), ("new", ACCEPT))], [DROP]], "passes"),
    "map drops": ([[vmap({"meta": {"key": "iifname"}}, ("lo", ACCEPT), ("eth0", DROP))]], "drops"),
}  # fmt: skip


@pytest.mark.parametrize(("rules", "expected"), TABLE.values(), ids=TABLE)
def test_rules(tmp_path: Path, rules: list[list[dict[str, Any]]], expected: str) -> None:
    """Each kind of rule lets requests pass, drops them, or may drop them where that depends on the client."""
    assert answer(tmp_path, ruleset(*rules)) == expected


def jump(name: str, kind: str = "jump") -> dict[str, Any]:
    return {kind: {"target": name}}


CHAINS = {
    "jump": ([[jump("more")]], [[dport(69), DROP]], "drops"),
    "jump for others": ([[meta("iifname", "lo"), jump("more")]], [[DROP]], "passes"),
    "jump for some": ([[UNKNOWN, jump("more")]], [[DROP]], "may drop"),
    "accepted there": ([[jump("more")], [DROP]], [[dport(69), ACCEPT]], "passes"),
    "accepted for some there": ([[UNKNOWN, jump("more")], [DROP]], [[ACCEPT]], "may drop"),
    "accepted for some of some there": ([[UNKNOWN, jump("more")], [DROP]], [[UNKNOWN, ACCEPT]], "may drop"),
    "nothing for some there": ([[UNKNOWN, jump("more")], [DROP]], [[dport(70), ACCEPT]], "drops"),
    "back": ([[jump("more")], [DROP]], [[RETURN], [ACCEPT]], "drops"),
    "goto": ([[jump("more", "goto")], [DROP]], [[RETURN]], "passes"),
    "circle": ([[jump("more")]], [[jump("more")]], "passes"),
    "no chain": ([[jump("gone")], [DROP]], [], "drops"),
}


@pytest.mark.parametrize(("rules", "more", "expected"), CHAINS.values(), ids=CHAINS)
def test_jumps(tmp_path: Path, rules: list[Any], more: list[Any], expected: str) -> None:
    """A walk goes on in the chain that is jumped to, and comes back from it, but not from a goto."""
    assert answer(tmp_path, ruleset(*rules, more=more)) == expected


def test_policyBehindGoto(tmp_path: Path) -> None:
    """Where the chain of a goto ends, the policy of the one that it came from decides."""
    assert answer(tmp_path, ruleset([jump("more", "goto")], [ACCEPT], policy="drop", more=[[RETURN]])) == "drops"
    assert answer(tmp_path, ruleset([jump("more", "goto")], [DROP], policy="drop", more=[[ACCEPT]])) == "passes"


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([], "drops"),
        ([[dport(69), ACCEPT]], "passes"),
        ([[dport(70), ACCEPT]], "drops"),
        ([[UNKNOWN, ACCEPT]], "may drop"),
        ([[state("established", "related"), ACCEPT]], "drops"),
    ],
)
def test_policy(tmp_path: Path, rules: list[Any], expected: str) -> None:
    """A chain whose policy is to drop drops what no rule accepts."""
    assert answer(tmp_path, ruleset(*rules, policy="drop")) == expected


@pytest.mark.parametrize(
    ("options", "accepted", "dropped"),
    [
        ({}, [dport(69)], True),
        ({"single-port": True}, [dport(69)], False),
        ({"ports": "30000-30100"}, [dport({"range": [30000, 30100]})], False),
        ({"ports": "30000-30100"}, [dport({"range": [30000, 30050]})], None),
        ({}, [state("established")], False),
    ],
)
def test_acknowledgements(tmp_path: Path, options: dict[str, Any], accepted: list[Any], dropped: bool | None) -> None:
    """Where requests are let in, acknowledgements have to be, too: by the ports of transfers, or by connection."""
    about = subject(tmp_path, tftp={**TFTP, **options})
    text = ruleset([dport(69), ACCEPT], [*accepted, ACCEPT], policy="drop")
    machine = FakeMachine(outputs={"nft -j list ruleset": text})
    told = "acknowledgements to the UDP ports of tftp's transfers"
    assert any(told in what for what in findings(lookAtFirewall, about, machine, "problem")) == (dropped is True)
    assert any(told in what for what in findings(lookAtFirewall, about, machine, "not known")) == (dropped is None)


def test_named(tmp_path: Path) -> None:
    """A finding names the rule by table, chain and handle, and what it drops; on the way out as well."""
    machine = FakeMachine(outputs={"nft -j list ruleset": ruleset([dport(70), DROP], [dport(69), DROP])})
    about = subject(tmp_path, tftp=TFTP)
    assert findings(lookAtFirewall, about, machine, "problem") == [
        "table inet filter, chain base, rule handle 2 drops requests to UDP port 69"
    ]
    machine.outputs["nft -j list ruleset"] = ruleset([meta("oifname", "eth0"), DROP], hook="output")
    assert findings(lookAtFirewall, about, machine, "problem") == [
        "table inet filter, chain base, rule handle 1 drops what tftp sends"
    ]


def test_proxyDhcp(tmp_path: Path) -> None:
    """The ports of proxydhcp are needed as well, 67 only where it hears what machines broadcast."""
    machine = FakeMachine(outputs={"nft -j list ruleset": ruleset([dport({"set": [67, 4011]}), DROP])})
    options = {"interface": "10.0.0.5", "rules": [{"boot": "a"}]}
    found = findings(lookAtFirewall, subject(tmp_path, proxydhcp=options), machine, "problem")
    assert [what.rpartition(" ")[2] for what in found] == ["67", "4011"]
    found = findings(lookAtFirewall, subject(tmp_path, proxydhcp={**options, "port-67": False}), machine, "problem")
    assert [what.rpartition(" ")[2] for what in found] == ["4011"]


def test_igmp(tmp_path: Path) -> None:
    """Where castd is the member of a group, and not only its sender, a rule that drops IGMP is named."""
    options = {"interface": "10.0.0.5", "rules": [{"boot": "a"}], "discovery": "239.1.1.1"}
    about = subject(tmp_path, proxydhcp=options)
    text = ruleset([match({"payload": {"protocol": "ip", "field": "protocol"}}, "igmp"), DROP])
    machine = FakeMachine(outputs={"nft -j list ruleset": text})
    (what,) = findings(lookAtFirewall, about, machine, "problem")
    assert what.endswith("drops IGMP queries")
    assert findings(lookAtFirewall, subject(tmp_path, slam={"file": "a"}), machine, "problem") == []


SAVED = """\
# Generated by iptables-save v1.8.9
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:boot - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p udp -m comment --comment "not this" -j boot
{rule}
COMMIT
"""


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("", "drops"),
        ("-A boot -p udp -m udp --dport 69 -j ACCEPT", "passes"),
        ("-A boot -p udp -m multiport --dports 67,69,4011 -j ACCEPT", "passes"),
        ("-A boot -p udp -m udp --dport 1:100 -j ACCEPT", "passes"),
        ("-A boot -p tcp -m tcp --dport 69 -j ACCEPT", "drops"),
        ("-A boot -s 10.0.0.0/8 -p udp -m udp --dport 69 -j ACCEPT", "may drop"),
        ("-A boot ! -i eth0 -p udp -m udp --dport 69 -j ACCEPT", "drops"),
        ("-A boot ! -i eth1 -p udp -m udp --dport 69 -j ACCEPT", "passes"),
        ("-A boot ! -f -p udp -m udp --dport 69 -j ACCEPT", "may drop"),
        ("-A boot -i eth+ -p udp -m udp --dport 69 -j ACCEPT", "passes"),
        ('-A boot -p udp -j LOG --log-prefix "boot: "\n-A boot -p udp --dport 69 -j ACCEPT', "passes"),
        ("-A boot -p udp --sport 69 -j ACCEPT", "drops"),
        ("-A boot -p udp -j RETURN\n-A boot -p udp -j ACCEPT", "drops"),
    ],
)
def test_iptables(tmp_path: Path, rule: str, expected: str) -> None:
    """The rules of iptables are followed in the same way."""
    datagram = next(iter(samples(subject(tmp_path, tftp=TFTP), FakeMachine())))
    found = drops(readSaved(SAVED.format(rule=rule)), datagram)
    assert ("drops" if any(each.sure for each in found) else "may drop" if found else "passes") == expected


def test_notReadable(tmp_path: Path) -> None:
    """Rules that this user may not read are not known; none are none of iptables where nft shows all."""
    machine = FakeMachine()
    del machine.outputs["nft -j list ruleset"]
    about = subject(tmp_path)
    assert findings(lookAtFirewall, about, machine, "not known") == ["which firewall rules there are"]
    machine.outputs["iptables-save"] = SAVED.format(rule="")
    assert len(findings(lookAtFirewall, about, machine, "problem")) == 1


EXPRESSIONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["match", "left", "right", "op", "set", "range", "payload", "meta", "ct", "key", "vmap", "data"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)
RULES = st.lists(
    st.dictionaries(st.sampled_from(["match", "vmap", "xt", "jump", "drop", "log"]), EXPRESSIONS), max_size=4
)
ABOUT: list[Any] = []


@pytest.fixture(scope="module", autouse=True)
def about(tmp_path_factory: pytest.TempPathFactory) -> None:
    ABOUT.extend(samples(subject(tmp_path_factory.mktemp("about"), tftp=TFTP), FakeMachine()))


@pytest.mark.slow
@given(st.lists(RULES, max_size=3))
def test_anyRule(rules: list[list[dict[str, Any]]]) -> None:
    """Expressions that no nft has written yet are no fault: what is not known may match."""
    chains = readRuleset(ruleset(*rules))
    for datagram in ABOUT:
        drops(chains, datagram)
