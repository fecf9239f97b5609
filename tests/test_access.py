"""
Access rules.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from castd.errors import Forbidden, Refused
from castd.files.access import NONE, Rule, Rules, _NameTable
from castd.files.names import Patterns
from castd.networks import viewpoints
from castd.options import clients


def rules(*written: dict[str, Any]) -> Rules:
    """Rules as a service file has them."""
    return Rules([Rule.model_validate(each) for each in written])


def allows(asked: Rules, host: str, name: str = "x", write: bool = False) -> bool:
    """May it?"""
    try:
        asked.check(host, name, write)
    except Forbidden:
        return False
    return True


def isPattern(text: str) -> bool:
    """May it stand in a service file?"""
    try:
        Patterns([text])
    except ValueError:
        return False
    return True


EXAMPLE = rules(
    {"deny": "10.0.66.0/24"},
    {"allow": "10.0.0.0/8", "names": ["*.efi", "pxelinux.*", "images/**"]},
    {"allow": ["192.168.0.0/16", "fe80::/10"], "for": "read"},
    {"allow": "10.0.0.5", "names": ["logs/**"], "for": "write"},
    {"deny": "any"},
)


@pytest.mark.parametrize(
    ("host", "name", "write", "allowed"),
    [
        ("10.0.0.1", "boot/bootx64.efi", False, True),
        ("10.0.0.1", "\\Boot\\BOOTX64.EFI", False, True),
        ("::ffff:10.0.0.1", "x.efi", False, True),
        ("10.0.0.1", "images/a/b", False, True),
        ("10.0.0.1", "//images//a", False, True),
        ("10.0.0.1", "secret", False, False),
        ("10.0.0.1", "x.efi\x01junk", False, True),
        ("10.0.0.1", "\udcff.efi\x7f", False, True),
        ("10.0.0.1", "secret\x01.efi", False, False),
        ("10.0.0.1", "x.efi", True, True),
        ("10.0.66.1", "x.efi", False, False),
        ("192.168.3.4", "secret", False, True),
        ("192.168.3.4", "secret", True, False),
        ("fe80::1%eth0", "secret", False, True),
        ("10.0.0.5", "logs/a", True, True),
        ("10.0.0.6", "logs/a", True, False),
        ("10.0.0.5", "logs/a", False, False),
        ("172.16.0.1", "x.efi", False, False),
        ("2001:db8::1", "x.efi", False, False),
    ],
)
def test_firstMatch(host: str, name: str, write: bool, allowed: bool) -> None:
    """The first rule that is about the client, the name and the use decides."""
    assert allows(EXAMPLE, host, name, write) is allowed


def test_order() -> None:
    """The same rules in another order are other rules."""
    one, two = {"allow": "10.0.0.0/8"}, {"deny": "10.0.0.0/8", "names": ["*.key"]}
    assert allows(rules(one, two), "10.0.0.1", "a.key")
    assert not allows(rules(two, one), "10.0.0.1", "dir/a.KEY")
    assert allows(rules(two, one), "10.0.0.1", "a.keys")


def test_noMatch() -> None:
    """Where no rule matches, or there is none, the answer is no."""
    assert not allows(rules(), "10.0.0.1")
    assert not allows(rules({"allow": "10.0.0.0/8", "names": ["a"]}), "10.0.0.1", "b")


def test_any() -> None:
    """ "any" is both address families."""
    for host in ("203.0.113.9", "2001:db8::1"):
        assert allows(rules({"allow": "any"}), host)
        assert not allows(rules({"deny": "any"}, {"allow": "any"}), host)


def test_unreadableName() -> None:
    """A name that leads upwards cannot be made to match: it is refused before any pattern sees it."""
    asked = rules({"allow": "any", "names": ["images/**"]})
    with pytest.raises(Refused) as refused:
        asked.check("10.0.0.1", "images/../secret.key")
    assert refused.value.code == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"allow": "any", "deny": "any"},
        {"allow": "10.0.0.1/8"},
        {"allow": "host.example"},
        {"allow": "any", "names": []},
        {"allow": "any", "names": ["a//b"]},
        {"allow": "any", "for": "append"},
        {"allow": "any", "name": ["a"]},
    ],
)
def test_wrong(wrong: dict[str, Any]) -> None:
    """A rule that says nothing, or two things, or misspells one, is refused when the file is read."""
    with pytest.raises(ValidationError):
        Rule.model_validate(wrong)


HOSTS = st.sampled_from(["10.0.0.1", "10.0.1.1", "192.168.0.1", "fe80::1"])
NETWORKS = st.sampled_from(["10.0.0.0/24", "10.0.0.0/8", "192.168.0.0/16", "fe80::/10", "any"])
NAMES = st.sampled_from(["a", "d/a", "b"])


@given(
    st.lists(
        st.builds(
            lambda verb, network, names, use: {
                verb: network,
                **({"names": names} if names else {}),
                **({"for": use} if use else {}),
            },
            st.sampled_from(["allow", "deny"]),
            NETWORKS,
            st.sampled_from([None, ["a"], ["/a", "b"], ["d/*"]]),
            st.sampled_from([None, "read", "write"]),
        ),
        max_size=6,
    ),
    HOSTS,
    NAMES,
    st.booleans(),
)
def test_asOneByOne(written: list[dict[str, Any]], host: str, name: str, write: bool) -> None:
    """All rules together say what the first of them says that has anything to say, asked one by one."""
    wanted = False
    for rule in written:
        other = {
            "deny" if verb == "allow" else "allow": value for verb, value in rule.items() if verb in ("allow", "deny")
        }
        opposite = {**{key: value for key, value in rule.items() if key in ("names", "for")}, **other}
        yes = allows(rules(rule), host, name, write)
        matches = yes or allows(rules(opposite), host, name, write)
        if matches:
            wanted = yes
            break
    together = rules(*written)
    assert [allows(together, host, name, write) for _ in range(2)] == [wanted, wanted]


PATTERNS = st.one_of(
    st.sampled_from(
        ["*", "**", "a/**", "/a/**", "*.k", "ks*", "a/*", "/a", "**/k", "a/**/k", "[ks]", "?s", "k/s", "i*k"]
    ),
    st.lists(
        st.sampled_from(["a", "k", "s", "I", "*", "?", "[ks]", "/a", ".", "\u017f", "\u0130"]), min_size=1, max_size=4
    )
    .map("".join)
    .filter(isPattern),
)
LETTERS = st.sampled_from(["a", "A", "k", "K", "s", "i", "I", ".", "/", "\u017f", "\u212a", "\u0130", "\u0131", "\xe4"])


@pytest.mark.slow
@settings(max_examples=500)
@given(st.lists(PATTERNS, min_size=1, max_size=6), st.lists(LETTERS, min_size=1, max_size=6).map("".join))
def test_tables(patterns: list[str], name: str) -> None:
    """Whatever table a pattern is in, the first rule that matches is the one that its pattern alone matches."""
    table = _NameTable()
    for number, pattern in enumerate(patterns):
        table.add(number, [pattern])
    name = "/".join(part for part in name.split("/") if part) or "a"
    wanted = next((number for number, pattern in enumerate(patterns) if name in Patterns([pattern])), NONE)
    assert table.first(name, NONE) == wanted


def tried(asked: Rules, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many patterns are tried one by one for a request that no rule is for."""
    tries = 0
    real = Patterns.__contains__

    def counted(self: Patterns, name: object) -> bool:
        nonlocal tries
        tries += 1
        return real(self, str(name))

    monkeypatch.setattr(Patterns, "__contains__", counted)
    assert not allows(asked, "10.200.0.1", "nobody/has.this")
    return tries


@pytest.mark.slow
def test_manyRules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten thousand rules by name, and as many by network, none is tried that is not about the request."""
    byName = ["boot/host{}", "{}.efi", "*.{}", "01-{}-*", "images/{}/**"]
    byName += ["images/{}/*.img", "boot/*/host{}", "**/{}.cfg", "a*-{}.cfg", "[ks]*-{}"]
    every = [{"allow": "any", "names": [form.format(n) for form in byName]} for n in range(2000)]
    every += [{"allow": f"10.{n >> 8}.{n & 255}.0/24", "names": ["x[0-9]*"]} for n in range(10_000)]
    asked = rules(*every)
    assert tried(asked, monkeypatch) == 0
    assert allows(asked, "192.168.0.1", "dir/01-1999-aa")
    assert allows(asked, "192.168.0.1", "images/7/a/b")
    assert allows(asked, "10.39.15.9", "X7")
    assert not allows(asked, "10.39.16.9", "X7")


small = st.integers(24, 32).flatmap(
    lambda prefix: st.builds(lambda host: ip_network((0x0A000000 + host, prefix), strict=False), st.integers(0, 511))
)
ruled = st.lists(st.tuples(st.booleans(), st.one_of(small, st.just("any"))), max_size=5)


@given(small, ruled)
def test_anyAddress(network: Any, written: Any) -> None:
    """Whether any address of a network may read a file is found without asking for each of them."""
    asked = rules(*({"allow" if allowed else "deny": str(there)} for allowed, there in written))
    assert asked.allowAny([network], "x") == any(allows(asked, str(address)) for address in network)


def test_lastAddress() -> None:
    """There is nothing behind the last address of all."""
    assert viewpoints(clients("any"), clients("any")) == ["0.0.0.0", "::"]
    assert viewpoints([ip_network("255.255.255.0/24")], [ip_network("255.255.255.128/25")]) == [
        "255.255.255.0",
        "255.255.255.128",
    ]


@given(
    st.lists(
        st.builds(
            lambda word, who, limits: {word: who, **limits},
            st.sampled_from(["allow", "deny"]),
            st.sampled_from(["any", "10.0.0.0/8", "::/0"]),
            st.sampled_from([{}, {"for": "read"}, {"for": "write"}, {"names": ["*.efi"]}]),
        ),
        max_size=4,
    ),
    st.sampled_from(["10.0.0.1", "192.168.0.1", "fe80::1"]),
    st.sampled_from(["a.efi", "b", "../b"]),
)
def test_openToRead(written: Any, host: str, name: str) -> None:
    """Rules need not be asked for a read only if they let everybody read everything."""
    asked = rules(*written)
    assert allows(asked, host, name) or not asked.openToRead
    assert rules({"allow": "any"}).openToRead
    assert rules({"deny": "any", "for": "write"}, {"allow": "any"}, {"deny": "any", "names": ["x"]}).openToRead
