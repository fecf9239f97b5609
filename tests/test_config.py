"""The service file, as a table: text, then what it says or what is wrong with it."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml as pyyaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from castd.config import yaml
from castd.config.config import Config, Kinds, MetricsOptions, build, load
from castd.config.messages import faultsOf
from castd.config.plugin import collect
from castd.config.schema import rows
from castd.config.warnings import warningsOf
from castd.errors import ConfigError
from castd.options import (
    Clients,
    Duration,
    FilePath,
    Frequency,
    GroupEndpoint,
    Limits,
    ListenOptions,
    Network,
    Port,
    Rate,
    Settings,
    Size,
)
from castd.service.endpoints import boundTo
from castd.service.service import kinds
from tests.support.needs import lack


class Plain(ListenOptions):
    """Something like tftp."""

    port: Port = 69
    blksize: int = Field(1468, ge=8, le=65464, description="largest block")
    files: dict[str, GroupEndpoint] = Field(default_factory=dict)
    subnets: tuple[Network, ...] = ()
    share: float = Field(0.1, ge=0, le=4)
    single: bool = False
    word: str = ""
    dataPort: Port | None = None
    rates: tuple[Rate, ...] = ()
    silence: Duration = Field(31.0, gt=0)


class Group(ListenOptions):
    """Something like slam, with what is required."""

    fallback = "tftp"
    port: Port = 10000
    file: str = Field(description="the one file this port serves")


class Boot(ListenOptions):
    """Something like mtftp."""

    elsewhere = ("tftp", 69)
    port: Port = 1759


class Shelf(Settings):
    """Something like directory."""

    path: FilePath
    under: str = ""


class Rule(Settings):
    """Something like an access rule."""

    allow: Clients | None = None
    deny: Clients | None = None
    machineKeys: ClassVar[tuple[str, ...]] = ()


@dataclass
class Made:
    """A maker, as far as this module needs one."""

    model: type[BaseModel] | None

    @property
    def options(self) -> type[BaseModel]:
        """As promised."""
        if self.model is None:
            raise ConfigError("castd.dialects.sick cannot be imported: ImportError: no")
        return self.model


SHELF = {"directory": Made(Shelf)}
KINDS = Kinds({"tftp": Made(Plain), "slam": Made(Group), "mtftp": Made(Boot), "sick": Made(None)}, SHELF, SHELF, Rule)

START = "castd: 1\ncontent:\n  - directory: {path: boot}\n"


def read(text: str) -> Config:
    return build(yaml.parse(text.encode(), "x.yaml"), Path("/etc/castd/x.yaml"), KINDS)


def transport(text: str) -> str:
    """A file with these options of one tftp, each on a line of its own from line 6 on."""
    return START + "transports:\n  tftp:\n" + "".join(f"    {line}\n" for line in text.splitlines())


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        read(text)
    return list(raised.value.faults)


@pytest.mark.parametrize(
    "logging",
    [
        "{file: a.log, json: b.log}",
        "{file: a.log, json: a.log.6}",  # five are kept
        "{file: a.log, json: a.log.1, size: null}",
        "{file: /dev/null, json: /dev/null}",
    ],
)
def test_filesOfTheirOwn(logging: str) -> None:
    """castd's own files may have any names that are not those of others, and devices may be used for all."""
    assert read(START + f"logging: {logging}\ntransports: {{tftp: }}\n").logging.file is not None


def test_whole() -> None:
    """A file with every section is what it says."""
    config = read(
        "castd: 1\n"
        "content:\n"
        "  - directory: {path: boot}\n"
        "  - directory: {path: /srv/images, under: images}\n"
        "uploads:\n"
        "  - directory: {path: in}\n"
        "access:\n"
        "  - {allow: 10.0.0.0/8}\n"
        "  - {deny: any}\n"
        "limits: {casts: 10, rate: 100 MB/s, drain: 5 s}\n"
        "logging: {level: debug, json: events.json}\n"
        "transports:\n"
        "  tftp: {interface: 10.0.0.5}\n"
        "  slam-kernel: {use: slam, file: vmlinuz, ttl: 4}\n"
    )
    assert [(each.name, each.kind, each.options) for each in config.transports] == [
        ("tftp", "tftp", Plain(interface="10.0.0.5")),
        ("slam-kernel", "slam", Group(file="vmlinuz", ttl=4)),
    ]
    assert [each.options for each in config.content] == [
        Shelf(path=Path("/etc/castd/boot")),
        Shelf(path=Path("/srv/images"), under="images"),
    ]
    assert [(each.name, each.options.path) for each in config.uploads] == [("uploads[0]", Path("/etc/castd/in"))]
    assert config.access == (Rule.model_validate({"allow": "10.0.0.0/8"}), Rule.model_validate({"deny": "any"}))
    assert config.limits == Limits(casts=10, rate=100e6, drain=5.0)
    assert (config.logging.level, config.logging.json_) == ("debug", Path("/etc/castd/events.json"))


def test_least() -> None:
    """What is not said is its default; a transport or section may be named and left empty."""
    config = read(START + "limits:\ntransports:\n  tftp:\n")
    assert config.transports[0].options == Plain()
    assert config.limits == Limits()
    assert config.access is None
    assert list(warningsOf(config)) == []


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("word: no", "word", "no"),
        ("word: 12:30", "word", "12:30"),
        ("word: 0x10", "word", "0x10"),
        ("word: 2026-11-21", "word", "2026-11-21"),
        ("word: 'null'", "word", "null"),
        ("single: no", "single", False),
        ("single: true", "single", True),
        ("blksize: 010", "blksize", 10),
        ("data-port: null", "dataPort", None),
        ("data-port: ~", "dataPort", None),
        ("data-port:", "dataPort", None),
        ("data-port: 247", "dataPort", 247),
        ("share: 0.15", "share", 0.15),
        ("rate: 20 MB/s", "rate", 20e6),
        ("silence: 2 min", "silence", 120.0),
        ("interface: any", "interface", ""),
        ("files: {a: '239.255.1.1:3001'}", "files", {"a": ("239.255.1.1", 3001)}),
    ],
)
def test_types(line: str, name: str, value: object) -> None:
    """Text becomes a value by the type of its option alone."""
    assert getattr(read(transport(line)).transports[0].options, name) == value


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("prot: 69", "prot: unknown key: did you mean port?"),
        ("dataPort: 5", "dataPort: unknown key: did you mean data-port?"),
        ("data_port: 5", "data_port: unknown key: did you mean data-port?"),
        ("xyzzy: 5", "xyzzy: unknown key"),
        ("port: 12:30", "port: 12:30 is not a whole number"),
        ("port: no", "port: no is not a whole number"),
        ("port: 0x45", "port: 0x45 is not a whole number"),
        ("port:", "port: has no value: it should be a whole number"),
        ("port: [69]", "port: a list is not a whole number"),
        ("port: 99999", "port: 99999 is not between 1 and 65535"),
        ("data-port: 0", "data-port: 0 is not between 1 and 65535"),
        ("share: 9", "share: 9 is not between 0 and 4"),
        ("share: x", "share: x is not a number"),
        ("silence: 0", "silence: 0 is not more than 0"),
        ("silence: 12:30", "silence: 12:30 is not a duration: write it as 200 ms, 1 s or 2 min"),
        ("single: maybe", "single: maybe is not true or false"),
        ("word: {a: b}", "word: a mapping is not text"),
        ("word:", "word: has no value: it should be text"),
        ("rate: 5", "rate: 5 is not a rate: write it as 20 MB/s or 100 Mbit/s"),
        ("rates: [1 MB/s, 5]", "rates[1]: 5 is not a rate: write it as 20 MB/s or 100 Mbit/s"),
        ("rates: 1 MB/s", "rates: 1 MB/s is not a list, [a, b]"),
        ("subnets: [10.0.0.1/8]", "subnets[0]: 10.0.0.1/8 has bits set behind its prefix: did you mean 10.0.0.0/8?"),
        ("interface: eth0", "interface: eth0 is not a numeric address: write it as 10.0.0.5, fe80::1%eth0 or any"),
        ("interface: {a: b}", "interface: a mapping is not address, such as 10.0.0.5"),
        ("files: {a: '224.0.0.1:5'}", "files.a: 224.0.0.1 is reserved for routing protocols (224.0.0.0/24)"),
        ("files: [a]", "files: a list is not a mapping, {key: value}"),
        (
            "word: !!python/name:os.system x",
            "word: the tag tag:yaml.org,2002:python/name:os.system has no meaning here",
        ),
        ("<<: {port: 5}", "<<: merging is not done here: write the keys out"),
        ("port: 5\nport: 6", "port: written twice, first in line 6"),
    ],
)
def test_wrong(line: str, complaint: str) -> None:
    """A wrong option is one line: file, line, path, what is wrong, and what would be right."""
    number = 5 + len(line.splitlines())
    assert faults(transport(line)) == [f"x.yaml:{number}: transports.tftp.{complaint}"]


class Amounts(BaseModel):
    """Amounts with units, each with bounds."""

    memory: Size = Field(64 << 20, ge=1 << 20, le=16 << 30)
    gather: Duration = Field(0.1, ge=0.05, le=0.15)
    silence: Duration | None = Field(None, gt=0)
    answers: Frequency = Field(2.0, ge=0.25)
    rate: Rate = Field(1e6, ge=1000)
    number: int = Field(9, ge=5, le=10_000_000)
    least: int = Field(9, ge=5_000_000)
    most: int = Field(9, le=5_000_000)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("memory", "5", "5 is not at least 1 MiB"),
        ("memory", "17 GiB", "17 GiB is not at most 16 GiB"),
        ("gather", "1 s", "1 s is not at most 150 ms"),
        ("gather", "0", "0 is not at least 50 ms"),
        ("silence", "0", "0 is not more than 0"),
        ("answers", "1/min", "1/min is not at least 15/min"),
        ("rate", "1 B/s", "1 B/s is not at least 1 kB/s"),
        ("number", "4", "4 is not between 5 and 10000000"),
        ("least", "4", "4 is not at least 5000000"),
        ("most", "6000000", "6000000 is not at most 5000000"),
    ],
)
def test_bounds(key: str, value: str, complaint: str) -> None:
    """A bound is written as a service file would have it."""
    with pytest.raises(ValidationError) as raised:
        Amounts.model_validate({key: value})
    assert list(faultsOf(raised.value, Amounts, {key: value})) == [((key,), complaint)]


def test_boundsInTheReference() -> None:
    """So it is in tables of options."""
    kinds = {row.key: row.kind for row in rows(Amounts)}
    assert [kinds[key] for key in ("number", "least", "most")] == [
        "number, 5 to 10000000",
        "number, from 5000000",
        "number, up to 5000000",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "x.yaml:1: the file is empty; it should begin with 'castd: 1'"),
        ("- a\n", "x.yaml:1: the file is a list; it should begin with 'castd: 1'"),
        ("hello\n", "x.yaml:1: the file is hello; it should begin with 'castd: 1'"),
        (
            START.replace("1", "2") + "transports: {tftp: }\n",
            "x.yaml:1: castd: schema 2 is not known here: it should be 1",
        ),
        (
            START.removeprefix("castd: 1\n") + "transports: {tftp: }\n",
            "x.yaml:1: castd is missing: the file should begin with 'castd: 1'",
        ),
        (START, "x.yaml:1: transports: nothing is listening: name at least one transport, such as 'tftp:'"),
        (
            "castd: 1\ntransports: {tftp: }\n",
            "x.yaml:1: content: nothing to serve: name a source, such as '- directory: {path: /srv/boot}'",
        ),
        (START + "transports: {tftp: }\ntransprt: 1\n", "x.yaml:5: transprt: unknown key: did you mean transports?"),
        (START + "transports: [tftp]\n", "x.yaml:4: transports: a list is not a mapping of names to options"),
        (
            START + "transports: {tfpt: }\n",
            (
                "x.yaml:4: transports.tfpt: nothing here is called tfpt: did you mean tftp? "
                "(a name of your own needs its kind: use: tftp)"
            ),
        ),
        (
            START + "transports: {lab: {kind: tftp}}\n",
            (
                "x.yaml:4: transports.lab: nothing here is called lab: known are mtftp, sick, slam, tftp "
                "(a name of your own needs its kind: use: tftp)"
            ),
        ),
        (
            START + "transports:\n  a:\n    use: zzz\n",
            "x.yaml:6: transports.a.use: nothing here is called zzz: known are mtftp, sick, slam, tftp",
        ),
        (
            START + "transports: {a: {use: sick}}\n",
            "x.yaml:4: transports.a.use: castd.dialects.sick cannot be imported: ImportError: no",
        ),
        (
            START + "transports: {a: {use: [tftp]}}\n",
            "x.yaml:4: transports.a.use: a list is not the name of a transport",
        ),
        (
            START + "transports: {a b: {use: tftp}}\n",
            "x.yaml:4: transports.a b: a name is letters, digits, '.', '_' and '-', at most 64",
        ),
        (START + "transports: {tftp: hello}\n", "x.yaml:4: transports.tftp: hello is not a mapping, {key: value}"),
        (
            START + "transports:\n  slam:\n",
            "x.yaml:5: transports.slam.file: is missing (the one file this port serves)",
        ),
        (
            START + "  - shelf: {path: x}\ntransports: {tftp: }\n",
            "x.yaml:4: content[1].shelf: nothing here is called shelf: known are directory",
        ),
        (
            START + "  - boot\ntransports: {tftp: }\n",
            "x.yaml:4: content[1]: boot is not one kind with its options, such as directory: {path: …}",
        ),
        (
            START + "  - directory: {}\ntransports: {tftp: }\n",
            "x.yaml:4: content[1].directory.path: is missing (path, such as /srv/boot)",
        ),
        (
            START + "uploads: {directory: x}\ntransports: {tftp: }\n",
            "x.yaml:4: uploads: a mapping is not a list: begin each with '- directory:'",
        ),
        (
            START + "access: {allow: any}\ntransports: {tftp: }\n",
            "x.yaml:4: access: a mapping is not a list: begin each rule with '- {allow: …}'",
        ),
        (
            START + "access: [{alow: any}]\ntransports: {tftp: }\n",
            "x.yaml:4: access[0].alow: unknown key: did you mean allow?",
        ),
        (START + "limits: {casts: 0}\ntransports: {tftp: }\n", "x.yaml:4: limits.casts: 0 is not at least 1"),
        (START + "limits: [1]\ntransports: {tftp: }\n", "x.yaml:4: limits: a list is not a mapping, {key: value}"),
        (
            START + "logging: {level: loud}\ntransports: {tftp: }\n",
            "x.yaml:4: logging.level: loud is not 'debug', 'info', 'warn', 'error' or 'critical'",
        ),
        (
            START + "transports:\n  tftp: {port: 69}\n  b: {use: tftp, port: 69, interface: 10.0.0.5}\n",
            (
                "x.yaml:6: transports.b: port 69 of 10.0.0.5 is also part of 'tftp', which listens at all addresses: "
                "give both the same interface, or two ports"
            ),
        ),
        (
            START + "logging: {file: a.log, json: a.log}\ntransports: {tftp: }\n",
            "x.yaml:4: logging.json: /etc/castd/a.log is logging.file: give each a name of its own",
        ),
        (
            START + "logging: {file: a.log}\nhistory: {path: a.log.5}\ntransports: {tftp: }\n",
            (
                "x.yaml:5: history.path: /etc/castd/a.log.5 is an older file of logging.file: "
                "give each a name of its own"
            ),
        ),
        (
            START + "logging: {file: x.yaml}\ntransports: {tftp: }\n",
            "x.yaml:4: logging.file: /etc/castd/x.yaml is this service file: give each a name of its own",
        ),
        (
            START + "control: {path: c}\nmetrics: {listen: 'unix:/etc/castd/c:mode=660'}\ntransports: {tftp: }\n",
            "x.yaml:5: metrics.listen: /etc/castd/c is control.path: give each a name of its own",
        ),
        (
            START + "history: {path: 'a:b'}\nmetrics: {listen: 'haproxy:unix:address=/etc/castd/a\\:b'}\n"
            "transports: {tftp: }\n",
            "x.yaml:4: history.path: /etc/castd/a:b is metrics.listen: give each a name of its own",
        ),
        (
            START + "logging: {file: a.log.1, json: a.log}\ntransports: {tftp: }\n",
            (
                "x.yaml:4: logging.json: /etc/castd/a.log.1, an older file of it, is logging.file: "
                "give each a name of its own"
            ),
        ),
        (
            "castd: {1\n",
            "x.yaml:2: not YAML: expected ',' or '}', but got '<stream end>' (while parsing a flow mapping, line 1)",
        ),
        (
            "\tcastd: 1\n",
            (
                "x.yaml:1: not YAML: found character '\\t' that cannot start any token: "
                "this is a tab, and YAML indents with blanks only"
            ),
        ),
        (
            "a: *b\n",
            "x.yaml:1: not YAML: found undefined alias 'b': if a * is meant, such a text stands in quotes, '*.efi'",
        ),
        (
            "castd: 1\n---\ncastd: 1\n",
            "x.yaml:2: not YAML: but found another document (expected a single document in the stream, line 1)",
        ),
        ("a: \x01\n", "x.yaml:1: a character that YAML forbids (U+0001)"),
        ("[" * 3000, "x.yaml:1: not YAML: nested deeper than 32 levels"),
        ("? [a]\n: b\n" + START + "transports: {tftp: }\n", "x.yaml:1: a key must be plain text"),
    ],
)
def test_wrongFile(text: str, complaint: str) -> None:
    """A wrong section, name or file is one line as well."""
    assert faults(text) == [complaint]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("access: [{allow: any, names: [*.efi]}]\n", "such a text stands in quotes, '*.efi'"),
        ("access:\n  - names:\n    - *\n", "such a text stands in quotes, '*.efi'"),
        ("a: {interface: ::}\n", "such a text stands in quotes, '::1'"),
        ("a: [::/0]\n", "such a text stands in quotes, '::1'"),
        ("a:\n  interface: ::\n", "such a text stands in quotes, '::'"),
        ("a: [@x]\n", "such a text stands in quotes, '@'"),
        ("names: [{mac}.cfg]\n", "is a comma missing before it, or quotes around the whole text? '{mac}.cfg'"),
        ("boot: {arch}/grub.efi\n", "the quotes stand around the whole text, '{mac}.cfg'"),
        ("a: {b: 1 c: 2}\n", "is a comma or a bracket missing before it?"),
        ('path: "C:\\srv"\n', "between '' it is a plain character"),
        ("castd:1\ncontent:\n  - directory: {path: x}\n", "a blank is missing: write 'castd: 1'"),
        ("a:\n  interface:10.0.0.5\n  port: 2\n", "a blank is missing: write 'interface: 10.0.0.5'"),
        ("a:\n  tftp:{interface: any, port: 69}\n", "a blank is missing: write 'tftp: {interface'"),
        ("- rule:{allow: any, for: read}\n", "a blank is missing: write 'rule: {allow'"),
        ("a:\n  tcp: 10.0.0.5:69: x\n", "such a text stands in quotes, '::'"),
        ("a:\n  b: 1\n   c: 2\n", "does this line begin under the one that it belongs to?"),
        ("a:\n  b: 1\n c: 2\n", "does this line begin under the one that it belongs to?"),
    ],
)
def test_whatYamlWants(text: str, hint: str) -> None:
    """What YAML cannot read is told with what to write; that a line begins wrong is said where it begins only."""
    (fault,) = faults(text)
    assert fault.endswith(hint), fault


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('"a\\0b"', f"transports.tftp.word: {yaml.UNFIT}"),
        ('"\\ud800"', f"transports.tftp.word: {yaml.UNFIT}"),
        ('"x", "a\\0b": 1', f"transports.tftp: a key has {yaml.UNFIT}"),
    ],
)
def test_textThatNothingHas(line: str, complaint: str) -> None:
    """Text with an octet of 0 or a lone surrogate is a fault of its line, wherever it would have been used."""
    assert faults(START + f"transports: {{tftp: {{word: {line}}}}}\n") == [f"x.yaml:4: {complaint}"]


def test_octetsInText() -> None:
    """An escape that stands for one octet, which is no UTF-8, passes: a file may have such a name."""
    config = read(START + 'transports: {tftp: {word: "\\udce9"}}\n')
    assert config.transports[0].options.word == "\udce9"


def test_allAtOnce() -> None:
    """All faults are told at once, in the order of the file."""
    text = (
        "castd: 3\n"
        "content: [{directory: {pth: x}}]\n"
        "limits: {per_peer: 3, drain: forever}\n"
        "transports:\n"
        "  tftp: {port: 0, blksze: 1}\n"
        "  tftp: {port: 0}\n"
        "  slam: {ttl: 300}\n"
    )
    assert [fault.split(": ")[:2] for fault in faults(text)] == [
        ["x.yaml:1", "castd"],
        ["x.yaml:2", "content[0].directory.path"],
        ["x.yaml:2", "content[0].directory.pth"],
        ["x.yaml:3", "limits.drain"],
        ["x.yaml:3", "limits.per_peer"],
        ["x.yaml:5", "transports.tftp.blksze"],
        ["x.yaml:5", "transports.tftp.port"],
        ["x.yaml:6", "transports.tftp"],
        ["x.yaml:7", "transports.slam.file"],
        ["x.yaml:7", "transports.slam.ttl"],
    ]


def test_eachEntry() -> None:
    """Of several networks, or files of mtftp, each that is wrong is a fault of its own, with its line."""
    with pytest.raises(ConfigError) as raised:
        stock(
            "castd: 1\ncontent: [{directory: {path: /srv/boot}}]\n"
            "access:\n- allow:\n  - 10.0.0.0/8\n  - 10.0.0.5/8\n  - here\n- {deny: []}\n"
            "transports:\n  mtftp:\n    files:\n      a:\n      b: 10.0.0.1:3001\n      c: 239.255.1.2:3001\n"
            "      d: 239.255.1.1\n"
        )
    assert list(raised.value.faults) == [
        "x.yaml:6: access[0].allow[1]: 10.0.0.5/8 has bits set behind its prefix: did you mean 10.0.0.0/8?",
        "x.yaml:7: access[0].allow[2]: here is not a network: write it as 10.0.0.0/8 or 10.0.0.5",
        "x.yaml:8: access[1].deny: an empty list is no client at all: name their networks, or any",
        (
            "x.yaml:13: transports.mtftp.files.b: 10.0.0.1 is not an IPv4 multicast address: "
            "they lie in 224.0.1.0 to 239.255.255.255"
        ),
        "x.yaml:15: transports.mtftp.files.d: 239.255.1.1 is not an address and a port: write it as 239.255.1.1:3001",
    ]


def test_notUtf8() -> None:
    """Octets that are no UTF-8 are told with their line."""
    with pytest.raises(ConfigError, match=r"x\.yaml:2: not UTF-8"):
        yaml.parse(b"castd: 1\nword: \xff\n", "x.yaml")


@pytest.mark.slow
def test_aliases() -> None:
    """An anchor may be used again; what refers to itself, or unfolds without end, is refused in time."""
    config = read(START + "transports:\n  tftp: {port: &port 1069}\n  slam: {port: *port, file: a}\n")
    assert [each.options.port for each in config.transports] == [1069, 1069]
    bomb = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    for text in (bomb, "a: &a [*a]\n"):
        with pytest.raises(ConfigError, match="aliases make this larger than any service file is"):
            yaml.parse(text.encode(), "x.yaml")


@pytest.mark.slow
def test_honest() -> None:
    """A file of many thousand values without an alias is read; only what aliases repeat is limited."""
    rules = "".join(f"- {{allow: 10.{n >> 8}.{n & 255}.0/24, names: [a, b], for: read}}\n" for n in range(12_000))
    tree = yaml.parse(f"castd: 1\naccess:\n{rules}".encode(), "x.yaml")
    assert isinstance(tree.value, dict)
    assert len(tree.value["access"] or ()) == 12_000


@given(
    st.text(alphabet="{}[]:,-&*!|>'\"% \n\tab1~?#")
    | st.text(alphabet=":{}[], \n12a").map(lambda text: START + "transports: {tftp: {" + text)
)
def test_bothParsers(text: str) -> None:
    """What libyaml accepts, and PyYAML's own parser too, gives the same values at the same lines."""
    if not pyyaml.__with_libyaml__:
        lack("PyYAML was built without libyaml")

    def read(fast: bool) -> tuple[object, object, object] | None:
        with pytest.MonkeyPatch.context() as chosen:
            chosen.setattr(pyyaml, "__with_libyaml__", fast)
            try:
                tree = yaml.parse(text.encode(), "x.yaml")
            except ConfigError:
                return None
            return tree.value, tree.lines, tree.faults

    slow = read(False)
    assert slow is None or read(True) == slow


def test_large() -> None:
    """A file above a mebibyte is refused unread."""
    with pytest.raises(ConfigError, match=r"x.yaml: larger than 1 MiB"):
        yaml.parse(b"#" * (yaml.MAX_OCTETS + 1), "x.yaml")


def test_oneLine() -> None:
    """Whatever the file holds, a fault is one line without control characters."""
    (fault,) = faults(transport('word: ""\n"po\\nrt\\e[31m": 1'))
    assert fault == "x.yaml:7: transports.tftp.po\\nrt\\x1b[31m: unknown key"


def test_unreadable(tmp_path: Path) -> None:
    """A file that is not there is told by name and reason."""
    with pytest.raises(ConfigError) as raised:
        load(tmp_path / "none.yaml", KINDS)
    assert raised.value.faults == (f"{tmp_path}/none.yaml: cannot be read: No such file or directory",)


def test_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in a file are relative to its folder, even if it was named relatively itself."""
    (tmp_path / "x.yaml").write_text(START + "transports: {tftp: }\n")
    monkeypatch.chdir(tmp_path)
    assert load("x.yaml", KINDS).content[0].options.path == tmp_path / "boot"


def test_addFault() -> None:
    """What shows only when a thing is made is told at its key's line, or else at the thing's."""
    config = read(transport("port: 5\nword: x"))
    (entry,) = config.transports
    entry.addFault("word: no such word")
    entry.addFault("nothing works")
    entry.addFault("elsewhere: neither")
    with pytest.raises(ConfigError) as raised:
        config.tree.raiseFaults()
    assert raised.value.faults == (
        "x.yaml:5: transports.tftp: elsewhere: neither",
        "x.yaml:5: transports.tftp: nothing works",
        "x.yaml:7: transports.tftp.word: no such word",
    )


def stock(text: str) -> Config:
    """Read a service file that may name what comes with castd."""
    return build(yaml.parse(text.encode(), "x.yaml"), Path("x.yaml"), kinds(collect()))


@pytest.mark.parametrize(
    ("transports", "warned"),
    [
        ("slam: {file: a}", True),
        ("slam: {file: a}, tftp: {port: 10000}", False),
        ("tftp: {port: 10000}, slam: {file: a}", True),
        ("slam: {file: a}, tftp: {port: 10001}", True),
    ],
)
def test_unserved(transports: str, warned: bool) -> None:
    """A warning tells of a group transport that no plain one follows at its address."""
    warnings = tuple(warningsOf(read(START + f"transports: {{{transports}}}\n")))
    told = "x.yaml:4: transports.slam: no tftp follows at its address, so clients it declines get no answer"
    assert warnings == ((told,) if warned else ())


@pytest.mark.parametrize(
    ("transports", "warned"),
    [
        ("mtftp: {}", True),
        ("mtftp: {}, tftp: {port: 69}", False),
        ("mtftp: {}, tftp: {port: 6969}", True),
        ("tftp: {port: 69}", False),
    ],
)
def test_nobodyElsewhere(transports: str, warned: bool) -> None:
    """A warning tells that clients which give up MTFTP find no plain TFTP where they look for it."""
    warnings = tuple(warningsOf(read(START + f"transports: {{{transports}}}\n")))
    told = "x.yaml:4: transports.mtftp: no tftp at port 69: clients that give up here ask there"
    assert warnings == ((told,) if warned else ())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("transports: {tftp: {}, slam: {file: a, port: 69}}", "4: transports.slam: is never asked: 'tftp'"),
        ("transports: {tftp: {}, b: {use: tftp}}", "4: transports.b: is never asked: 'tftp'"),
        ("access: [{allow: any}, {deny: 10.0.0.0/8}]", "4: access[1]: never decides: the rule in line 4"),
        ("access: [{deny: any, for: read}, {allow: 10.0.0.1, for: read, names: [a]}]", "4: access[1]: never decides"),
        (
            "access: [{allow: 10.0.0.0/9}, {deny: 10.128.0.0/9}, {allow: [10.1.0.0/16, 10.200.0.0/16]}]",
            "4: access[2]: n",
        ),
        ("access: [{allow: any, names: [/srv/boot/a]}]", "4: access[0].names: /srv/boot/a is a path on this machine"),
        ("access: [{allow: any, names: [./a]}]", "4: access[0].names: ./a matches no name"),
        ("access: [{deny: any, names: [a/../b]}, {allow: any}]", "4: access[0].names: a/../b matches no name"),
        ("uploads: [{directory: {path: x}}]\naccess: [{allow: any, for: read}]", "4: uploads: no access rule"),
        ("uploads: [{directory: {path: x}}]", "4: uploads: without access rules"),
    ],
)
def test_noEffect(text: str, told: str) -> None:
    """What a service file says without any effect is worth a warning, with its line."""
    more = "" if "transports" in text else "\ntransports: {tftp: {}}"
    config = stock(f"castd: 1\ncontent:\n- directory: {{path: /srv/boot}}\n{text}{more}\n")
    assert [each[7:].startswith(told) for each in warningsOf(config)] == [True], list(warningsOf(config))


def placesWarned(*places: str) -> list[str]:
    """Return the warnings of a service file with these directories for uploads, the first one in line 4."""
    uploads = "".join(f"- directory: {{path: x{number}, {given}}}\n" for number, given in enumerate(places))
    text = f"castd: 1\naccess: [{{allow: any}}]\nuploads:\n{uploads}transports: {{tftp: {{}}}}\n"
    return list(warningsOf(stock(text)))


MAKES = "make-directories: true"
NEVER = "is never reached: the directory in line 4 takes all that it could take"
SELDOM = "is reached only for folders that the directory in line 4 lacks: all else of its clients goes there"


@pytest.mark.parametrize(
    ("places", "told"),
    [
        (["policy: create", "policy: create"], SELDOM),
        (["policy: create", "networks: 10.0.0.0/8"], SELDOM),
        (["networks: 10.0.0.0/8", "networks: [10.1.0.0/16, 10.2.0.0/16]"], SELDOM),
        (["networks: 10.0.0.0/8, under: a", "networks: 10.1.0.0/16, under: a"], SELDOM),
        ([MAKES, "networks: 10.0.0.0/8"], NEVER),
        ([MAKES, MAKES], NEVER),
        ([MAKES, "under: a/b"], NEVER),
        ([f"{MAKES}, under: a", "under: a/b"], NEVER),
        ([f"{MAKES}, strip: [/x]", "under: a"], NEVER),
        ([MAKES, "under: '{mac}'"], NEVER),
        ([MAKES, "policy: existing"], NEVER),
    ],
)
def test_uploadsNeverReached(places: list[str], told: str) -> None:
    """A directory for uploads that an earlier one leaves nothing is worth a warning, with its line."""
    (warning,) = placesWarned(*places)
    assert warning == f"x.yaml:5: uploads[1].directory: {told}; put it first, or let it be for other names"


def test_uploadsOfTwo() -> None:
    """What two directories take between them is left to nobody, either."""
    last = "networks: [10.1.0.0/16, 10.200.0.0/16]"
    (warning,) = placesWarned("networks: 10.0.0.0/9", "networks: 10.128.0.0/9", last)
    assert warning.startswith(f"x.yaml:6: uploads[2].directory: {SELDOM}")


@pytest.mark.parametrize(
    "places",
    [
        ["networks: 10.0.0.0/8", "networks: any"],
        ["networks: 10.0.0.0/8", "networks: 10.0.0.0/7"],
        ["networks: 10.0.0.0/8", "networks: 'fd00::/8'"],
        ["networks: 10.0.0.0/8", "networks: [10.1.0.0/16, 11.0.0.0/8]"],
        ["under: a", "policy: create"],
        [f"{MAKES}, under: a", "under: ab"],
        [f"{MAKES}, under: a/b", "under: a"],
        # Folders that only the later one has, or makes.
        ["policy: create", "under: a"],
        ["policy: create", MAKES],
        ["policy: existing", "policy: create"],
        # What names become is not followed.
        [f"{MAKES}, under: a, strip: [/x]", "under: a"],
        [f"{MAKES}, rewrite: [{{from: ^a, to: b}}]", "policy: create"],
        [MAKES, "rewrite: [{from: ^a, to: b}]"],
        [f"{MAKES}, under: '{{mac}}'", "policy: create"],
    ],
)
def test_uploadsReached(places: list[str]) -> None:
    """One that is for other clients or names, or gets what the others cannot take, is no warning."""
    assert placesWarned(*places) == []


@pytest.mark.parametrize(
    "access",
    [
        "[{deny: 10.0.0.0/8}, {allow: any}]",
        "[{allow: any, for: read}, {allow: 10.0.0.0/8}]",
        "[{allow: any, names: [a]}, {allow: any, names: [b]}, {deny: any}]",
        "[{deny: 0.0.0.0/0}, {allow: any}]",
        "[{allow: 10.0.0.0/16}, {deny: [10.0.1.0/24, 10.1.0.0/24]}, {deny: 10.0.0.0/15}]",
        "[{allow: any, for: write}, {deny: any, for: read}]",
        "[{allow: any, names: [/a, boot/b]}]",
    ],
)
def test_withEffect(access: str) -> None:
    """Rules that can decide are no warning."""
    config = stock(
        f"castd: 1\ncontent: [{{directory: {{path: /srv/boot}}}}]\naccess: {access}\ntransports: {{tftp: {{}}}}\n"
    )
    assert list(warningsOf(config)) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "transports:\n\ttftp: {}",
            "4: not YAML: found character '\\t' that cannot start any token: this is a tab",
        ),
        (
            "transports:\n  tftp:\n    port: 6\n     ttl: 1",
            "6: not YAML: mapping values are not allowed here: does",
        ),
        ("transports:\n  tftp: {port:\u00a069}", "4: transports.tftp.port:\\xa069: unknown key: it has a blank"),
        (
            "transports: {tftp: {port:69}}",
            "3: transports.tftp.port:69: unknown key: a blank is missing",
        ),
        (
            "transports: {tftp: {silence: 999999999999 d}}",
            "3: transports.tftp.silence: 999999999999 d is more",
        ),
    ],
)
def test_cures(text: str, told: str) -> None:
    """What people get wrong in YAML is said with its cure."""
    with pytest.raises(ConfigError) as raised:
        stock(f"castd: 1\ncontent: [{{directory: {{path: /srv/boot}}}}]\n{text}\n")
    assert raised.value.faults[0].startswith(f"x.yaml:{told}"), raised.value.faults


@given(
    st.one_of(
        st.text(),
        st.text(alphabet="{}[]:,-&*!|>'\"% \n\tab1~"),
        st.text(alphabet=":{}[], \n12a").map(lambda text: START + "transports: {tftp: {" + text),
    )
)
def test_anyText(text: str) -> None:
    """Any text at all is a configuration or a complaint in lines; nothing else is raised."""
    try:
        read(text)
        told: tuple[str, ...] = ()
    except UnicodeEncodeError:
        return
    except ConfigError as error:
        told = error.faults or ("nothing",)
    assert all(fault.startswith("x.yaml:") and fault.isprintable() for fault in told)


def test_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service file may come through a pipe; one that nobody writes to, or goes on with, is not waited for long."""
    monkeypatch.setattr(yaml, "PIPE_TIMEOUT", 0.05)
    pipe = tmp_path / "castd.yaml"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match=r"castd\.yaml: cannot be read: it is no file, and nothing has come"):
        yaml.read(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(pipe, os.O_WRONLY)
    os.write(writer, b"a: b\n")
    with pytest.raises(ConfigError, match="nothing has come"):
        yaml.read(pipe)
    os.close(reader)
    os.close(writer)
    writing = threading.Thread(target=pipe.write_bytes, args=(b"a: b\n",))
    monkeypatch.setattr(yaml, "PIPE_TIMEOUT", 10.0)
    writing.start()
    assert yaml.read(pipe).value == {"a": "b"}
    writing.join()


def test_manyFaults() -> None:
    """A file with thousands of faults is read in a second: each costs no schema, and no walk through the whole list."""
    made: list[object] = []

    class Numbers(BaseModel):
        numbers: list[int]

        @classmethod
        def model_json_schema(cls, *given: Any, **named: Any) -> dict[str, Any]:
            made.append(given)
            return super().model_json_schema(*given, **named)

    walks: list[object] = []

    class Values(list[Any]):
        def __iter__(self) -> Any:
            walks.append(1)
            return super().__iter__()

    wrong: dict[str, Any] = {"numbers": Values(["x"] * 50)}
    for _ in range(3):
        with pytest.raises(ValidationError) as caught:
            Numbers.model_validate(wrong)
        walks.clear()
        found = list(faultsOf(caught.value, Numbers, wrong))
        assert found == [(("numbers", at), "x is not a whole number") for at in range(50)]
        assert (len(made), walks) == (1, [])


@pytest.mark.parametrize(
    ("listen", "path"),
    [
        ("unix:/run/c", "/run/c"),
        ("unix:c:mode=660", "c"),
        ("unix:mode=660:address=/run/c", "/run/c"),
        ("unix:lockfile=0:address=/run/c:backlog=9", "/run/c"),
        (r"unix:/run/a\:b", "/run/a:b"),
        (r"unix:address=/run/a=b\\c\:d", r"/run/a=b\c:d"),
        (r"unix:/run/a\=b", "/run/a=b"),
        ("unix:address=/run/a\nb", "/run/a\nb"),
        ("haproxy:unix:/run/c", "/run/c"),
        ("haproxy:unix:mode=660:address=/run/c", "/run/c"),
        (r"haproxy:unix:address=/run/a\:b", "/run/a:b"),
        ("tcp:9147:interface=127.0.0.1", None),
        ("tcp:interface=127.0.0.1:port=9147", None),
        ("127.0.0.1:9147", None),
    ],
)
def test_localSocketOfEndpoint(listen: str, path: str | None) -> None:
    """The path of a local socket is read as Twisted reads it, which opens that one."""
    bound = boundTo(listen)
    assert bound == Path(path) if path is not None else not isinstance(bound, Path)
    assert MetricsOptions(listen=listen).socket == (None if path is None else bound)
