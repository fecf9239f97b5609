"""
Templates: each machine gets its own result, rendered once, and whatever a template does stays in its own process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from pydantic import ValidationError
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from castd.cli.main import main
from castd.errors import ConfigError, NotFound, Refused, Unanswered
from castd.files import names
from castd.interfaces import IContent, IScopedSource
from castd.machines.known import KnownMachine
from castd.machines.words import fill, parse
from castd.request import Local, Request
from castd.templates import source as template
from castd.templates.checks import templateFaults
from castd.templates.child import IDLE
from castd.templates.messages import LARGEST_TEXT, LENGTH, LENGTHS, MEMORY_STATUS, Job, Rendered, packed
from castd.templates.renderers import (
    MOST_PROCESSES,
    MOST_QUEUED,
    MOST_WAITED,
    START_TIMEOUT,
    Renderers,
    RenderProcess,
)
from castd.templates.rendering import Rendering
from castd.templates.source import FAILED_LASTS, Options, RenderedContent, TemplateSource, makeSource
from castd.testing.network import Network
from castd.testing.site import MemorySite, memorySite
from tests.support.disks import Later, result

ONE, TWO = "52:54:00:66:00:10", "52:54:00:66:00:11"
LOCAL = Local("10.0.0.1", 69)
PEER = ("10.0.0.77", 1)

INVENTORY = """
all: {kernel: common, root: /dev/nfs}
groups:
  lab: {kernel: lab-kernel}
machines:
  52-54-00-66-00-10: {groups: [lab], title: first}
  10.0.0.9: {title: by address}
"""


class Here:
    """Renders in this process, and counts."""

    def __init__(self) -> None:
        self.rendering, self.jobs = Rendering(), list[Job]()

    def __call__(self, source: object, job: Job, seconds: float, memory: int) -> Deferred[Rendered]:
        self.jobs.append(job)
        return maybeDeferred(lambda: json.loads(json.dumps(self.rendering.render(job))))


class Stage:
    """A site in memory whose files come from one template; two machines are neighbours."""

    def __init__(self, folder: Path, text: str, **options: Any) -> None:
        self.folder, self.here = folder, Here()
        (folder / "boot.j2").write_text(text)
        (folder / "inventory.yaml").write_text(INVENTORY)
        self.network = Network()
        given = {"file": str(folder / "boot.j2"), "names": ["boot.ipxe"], **options}
        if given.get("inventory") is True:
            given["inventory"] = str(folder / "inventory.yaml")
        self.options = Options.model_validate(given)
        self.site: MemorySite = memorySite(self.network)
        self.source = TemplateSource(self.options, self.here, self.site, maybeDeferred)
        self.site = memorySite(self.network, host="10.0.0.2", source=self.source)
        self.site.neighbours.update({"10.0.0.7": ONE, "10.0.0.8": TWO})

    def open(self, host: str, name: str = "boot.ipxe") -> Any:
        """The content that a machine is given."""
        found = self.site.lookup(Request((host, 2070), LOCAL, name))
        # A machine that is not known is looked for once more.
        self.network.advance(0.1)
        return result(found)

    def get(self, host: str = "10.0.0.7", name: str = "boot.ipxe") -> str:
        """What a machine gets."""
        content = self.open(host, name)
        try:
            return bytes(content.read(0, content.size)).decode()
        finally:
            content.close()


def test_interfaces(tmp_path: Path) -> None:
    """Source and content are what the chain of sources expects."""
    stage = Stage(tmp_path, "")
    assert verifyObject(IScopedSource, stage.source)
    assert verifyObject(IContent, RenderedContent("x", b"octets"))


def test_byMachine(tmp_path: Path) -> None:
    """A template is told who asks, for what and where; each machine gets its own."""
    stage = Stage(
        tmp_path, "{{ mac }} {{ ip }} {{ uuid }} {{ arch }} {{ name }} {{ server }} {{ groups }}\n", names=["**"]
    )
    stage.site.machines.hear(ONE, "00112233-4455-6677-8899-aabbccddeeff", "efi-x64")
    uuid = "00112233-4455-6677-8899-aabbccddeeff"
    assert stage.get(name="/pc/x") == f"{ONE} 10.0.0.7 {uuid} efi-x64 pc/x 10.0.0.1 []\n"
    assert stage.get("10.0.0.8") == f"{TWO} 10.0.0.8 None None boot.ipxe 10.0.0.1 []\n"


def test_scope(tmp_path: Path) -> None:
    """For a name that a template has for no machine nobody finds out who asks; it is refused whoever that is."""
    patterns = ["boot.ipxe", "pc/{mac}.cfg", "{uuid}", "*{ip}/x", "[a{arch}]", "{{mac}}", "**/{date}/{time}-?.ks"]
    machines = [
        KnownMachine(("10.0.0.7", 1), mac=ONE, uuid="00112233-4455-6677-8899-aabbccddeeff", arch="efi-x64", at=0.0),
        KnownMachine(("10.0.0.8", 1), at=0.0),
        KnownMachine(("fd00::7", 1), mac="80-00-02-08-fe-80-00-00-00-00-00-00-52-54-00-66", arch="i", at=0.0),
    ]
    made = [fill(parse(pattern), machine.values) for pattern in patterns for machine in machines]
    asked = {each.replace("*", "a").replace("?", "1") for each in made if each is not None}
    asked |= {"e", "x", "pc/x.cfg", "pc/a-b.cfg", "a/b/c", "../x", "", "\0", "A/1970-01-01/00-00-00-1.KS"}
    stages = [Stage(tmp_path, "x", names=[each]) for each in patterns]
    scopes = {(stage.options.names[0], name) for stage in stages for name in asked if stage.source.mayHave(name, PEER)}
    found = set[tuple[str, str]]()
    for stage in stages:
        for name in asked:
            for machine in machines:
                try:
                    result(stage.source.lookupFor(name, machine))
                except NotFound:
                    continue
                found.add((stage.options.names[0], name))
    assert found <= scopes
    assert {pattern for pattern, _ in found} == set(patterns)
    assert not {("boot.ipxe", "x"), ("pc/{mac}.cfg", "pc/x.cfg"), ("{uuid}", "boot.ipxe")} & scopes
    assert not Stage(tmp_path, "x", networks="10.9.0.0/16").source.mayHave("boot.ipxe", PEER)


def test_unasked(tmp_path: Path) -> None:
    """A request for a name that the template does not have is answered at once, also to a machine that is not known."""
    stage = Stage(tmp_path, "x", names=["pc/{mac}.cfg"])
    stage.site.machines.machineOf(PEER)
    with pytest.raises(NotFound):
        stage.site.lookup(Request(PEER, LOCAL, "pxelinux.0"))
    asked = stage.site.lookup(Request(PEER, LOCAL, "pc/52-54-00-66-00-10.cfg"))
    assert isinstance(asked, Deferred)
    assert not asked.called
    stage.network.advance(0.1)
    with pytest.raises(NotFound):
        result(asked)


def test_manyTemplates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of hundreds of templates with names for each machine those that cannot have a name compile nothing for it."""
    stages = [Stage(tmp_path, "{{ mac }}", names=[f"{number}/{{mac}}.cfg"]) for number in range(20)]
    compiled: list[object] = []

    def counted(patterns: tuple[str, ...]) -> names.Patterns:
        compiled.append(patterns)
        return names.Patterns(patterns)

    monkeypatch.setattr(template, "_patterns", counted)
    for octet in range(10, 30):
        machine = KnownMachine(("10.0.0.7", 1), mac=f"52:54:00:66:00:{octet}")
        for stage in stages[:-1]:
            with pytest.raises(NotFound):
                stage.source.lookupFor(f"19/52-54-00-66-00-{octet}.cfg", machine)
        result(stages[-1].source.lookupFor(f"19/52-54-00-66-00-{octet}.cfg", machine)).close()
    assert len(compiled) == 20


def test_inventory(tmp_path: Path) -> None:
    """The inventory knows machines by MAC or address; a group's value goes before that for all, its own before both."""
    stage = Stage(tmp_path, "{{ machine.title }} {{ machine.kernel }} {{ machine.root }} {{ groups }}", inventory=True)
    assert stage.get() == "first lab-kernel /dev/nfs ['lab']"
    assert stage.get("10.0.0.9") == "by address common /dev/nfs []"
    stage = Stage(tmp_path, "{{ machine.title }}", inventory=True, **{"known-only": True})
    assert stage.get() == "first"
    with pytest.raises(NotFound):
        stage.get("10.0.0.8")


def test_renderedOnce(tmp_path: Path) -> None:
    """A machine's file is rendered once, until the template, one that it includes, or the inventory changes."""
    stage = Stage(tmp_path, "{% include 'part.j2' %} {{ mac }}", inventory=True)
    (tmp_path / "part.j2").write_text("1")
    assert [stage.get() for _ in range(3)] == [f"1 {ONE}"] * 3
    assert stage.get("10.0.0.8") == f"1 {TWO}"
    assert len(stage.here.jobs) == 2
    (tmp_path / "part.j2").write_text("22")
    assert [stage.get() for _ in range(3)] == [f"22 {ONE}"] * 3
    (tmp_path / "inventory.yaml").write_text(INVENTORY + "\n")
    stage.get()
    (tmp_path / "boot.j2").write_text("another")
    assert stage.get() == "another"
    assert len(stage.here.jobs) == 5


def test_timeKept(tmp_path: Path) -> None:
    """A template or an inventory with other text is rendered anew, even if it keeps its size and its time."""
    stage = Stage(tmp_path, "1 {{ machine.title }}", inventory=True)
    assert stage.get() == "1 first"
    for name, before, after, made in (
        ("boot.j2", "1 ", "2 ", "2 first"),
        ("inventory.yaml", "first", "other", "2 other"),
    ):
        path = tmp_path / name
        status, text = path.stat(), path.read_text().replace(before, after, 1)
        while path.stat().st_ctime_ns == status.st_ctime_ns:  # the clock of the kernel has coarse steps
            path.write_text(text)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert path.stat().st_size == status.st_size
        assert stage.get() == made


def test_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many octets are kept and no more; those that were asked for last."""
    monkeypatch.setattr(template, "MOST_OCTETS", 25)
    stage = Stage(tmp_path, "{{ name }}34567890", names=["*"])
    for name in ("ab", "cd", "ab", "ef", "ab"):
        stage.get(name=name)
    assert [job["values"]["name"] for job in stage.here.jobs] == ["ab", "cd", "ef"]
    stage.get(name="cd")
    assert len(stage.here.jobs) == 4


def test_droppedMeanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that makes room for another one while its files are looked at counts again when it is handed out."""
    monkeypatch.setattr(template, "MOST_OCTETS", 25)
    stage, thread = Stage(tmp_path, "{{ name }}34567890", names=["*"]), Later()
    source = TemplateSource(stage.options, stage.here, stage.site, thread)
    machine = KnownMachine(("10.0.0.7", 2070))
    for asked in (("ab",), ("cd",), ("ef", "ab"), ("cd",)):
        found = [source.lookupFor(name, machine) for name in asked]
        thread.run()
        assert [result(each).size for each in found] == [10] * len(asked)
    assert [job["values"]["name"] for job in stage.here.jobs] == ["ab", "cd", "ef", "cd"]


def test_equalResults(tmp_path: Path) -> None:
    """Machines with equal results may share a cast; others never do."""
    stage = Stage(tmp_path, "{% if mac == '52:54:00:66:00:10' %}one{% endif %}")
    versions = [stage.open(host).version for host in ("10.0.0.7", "10.0.0.8", "10.0.0.9")]
    assert versions[0] != versions[1] == versions[2]


def test_names(tmp_path: Path) -> None:
    """A template has the names of its patterns; one with a word is the name for that machine alone."""
    stage = Stage(tmp_path, "x", names=["*.ks", "pxelinux.cfg/01-{mac}"], networks=["10.0.0.0/24"])
    assert stage.get(name="a/b.ks") == "x"
    assert stage.get(name="/pxelinux.cfg/01-52-54-00-66-00-10") == "x"
    for host, name in (("10.0.0.8", "pxelinux.cfg/01-52-54-00-66-00-10"), ("10.0.0.7", "b"), ("10.0.1.7", "b.ks")):
        with pytest.raises(NotFound):
            stage.get(host, name)
    for name in ("../b.ks", "b.ks\x01"):
        with pytest.raises(NotFound):
            stage.get(name=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("\n{{ nothing }}", 2, "'nothing' is undefined"),
        ("\n\n{% if %}", 3, "Expected an expression"),
        ("{{ 1 / 0 }}", 1, "ZeroDivisionError"),
        ("\n{% include 'missing' %}", 2, "missing"),
        ("\n{% include '../../etc/passwd' %}", 2, "passwd"),
        ("{{ ''.__class__ }}", 1, "unsafe"),
        ("{{ self.__init__.__globals__ }}", 1, ""),
        ("\n{{ ''.format.__self__ }}", 2, "__self__"),
        ("{{ range(10000000) | list }}", 1, "OverflowError"),
        ("{{ groups.append(1) }}", 1, "unsafe"),
        ("{% for _ in range(2000) %}{{ '12345678' * 100 }}{% endfor %}", None, "larger than 1048576 octets"),
    ],
)
def test_faults(tmp_path: Path, events: list[dict[str, Any]], text: str, line: int | None, what: str) -> None:
    """A fault is in the log with file and line; the client is told that there is one, and no path."""
    stage = Stage(tmp_path, text)
    with pytest.raises(Refused) as refused:
        stage.get()
    assert refused.value.text == "The file could not be made"
    assert refused.value.code == 0
    (told,) = [event["fault"] for event in events if event["event"] == "template-fault"]
    assert told.startswith(f"{tmp_path}/boot.j2:{'' if line is None else line}")
    assert what in told


def test_faultsLast(tmp_path: Path) -> None:
    """What has failed is not tried again for a while, unless a file has changed."""
    stage = Stage(tmp_path, "{{ nothing }}")
    for _ in range(3):
        with pytest.raises(Refused):
            stage.get()
    assert len(stage.here.jobs) == 1
    stage.network.advance(FAILED_LASTS)
    with pytest.raises(Refused):
        stage.get()
    assert len(stage.here.jobs) == 2
    (tmp_path / "boot.j2").write_text("mended")
    assert stage.get() == "mended"


def test_inventoryOfNobody(tmp_path: Path) -> None:
    """castd check warns of what stands in the inventory for no machine; the others get their files."""
    text = """machines:
  52:54:00:66:00:10: {}
  52-54-00-66-00-1F: {}
  00112233-4455-6677-8899-AABBCCDDEEFF: {}
  10.0.0.7: {title: by address}
  FD00:0:0:0::7: {title: by a long address}
  pc7: {}
  5254.0066.0010: {}
  525400660011: {}
  10.0.0.007: {}
"""
    stage = Stage(tmp_path, "{{ machine.title }}", inventory=True)
    (tmp_path / "inventory.yaml").write_text(text)
    warnings = list(templateFaults(str(tmp_path / "boot.j2"), str(tmp_path / "inventory.yaml")))
    assert [each.partition(" is no machine: write its MAC as ")[0] for each in warnings] == [
        f"{tmp_path}/inventory.yaml:{line}: machines.{name}"
        for line, name in ((7, "pc7"), (8, "5254.0066.0010"), (9, "525400660011"), (10, "10.0.0.007"))
    ]
    stage.site.neighbours.clear()
    assert stage.get() == "by address"
    assert stage.get("fd00::7") == "by a long address"


def test_inventoryHasNoBase60(tmp_path: Path) -> None:
    """A MAC of decimal digits alone, such as QEMU's first, is no number, nor is a time of day, as YAML 1.1 has it."""
    text = "machines:\n  52:54:00:12:34:56: {bmc: 52:54:00:12:34:57, at: 12:30, ports: 2, load: 0.5}\n"
    stage = Stage(tmp_path, "{{ machine.bmc }} {{ machine.at }} {{ machine.ports + machine.load }}", inventory=True)
    (tmp_path / "inventory.yaml").write_text(text)
    stage.site.neighbours["10.0.0.7"] = "52:54:00:12:34:56"
    assert stage.get() == "52:54:00:12:34:57 12:30 2.5"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("machines: [a]", ":1: machines is no mapping"),
        ("\n\na: [", ":3:"),
        ("\nmachines:\n  10.0.0.7: {groups: [none]}", ":3: machines.10.0.0.7.groups: there is no group none"),
        ("machines:\n  10.0.0.7:\n    title: x\n    groups: none", ":4: machines.10.0.0.7.groups is no list of names"),
        ("all: {}\ngroups:\n  lab: [x]", ":3: groups.lab is no mapping"),
        ("machines:\n  1: x", ":2: machines.1 is no mapping"),
        ("a: &a {groups: x}\nmachines:\n  pc:\n    <<: *a", ": machines.pc.groups is no list of names"),
        ("- a", ": the file is no mapping"),
        ("a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
    ],
)
def test_inventoryFaults(tmp_path: Path, text: str, fault: str) -> None:
    """A fault of the inventory is told with its place."""
    stage = Stage(tmp_path, "x", inventory=True)
    (tmp_path / "inventory.yaml").write_text(text)
    with pytest.raises(Refused) as refused:
        stage.get()
    assert f"{tmp_path}/inventory.yaml" in str(refused.value)
    assert fault in str(refused.value)
    assert list(templateFaults(str(tmp_path / "boot.j2"), str(tmp_path / "inventory.yaml"))) == [str(refused.value)]


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("{% if x %}\n\n{% otherwise %}{% endif %}", ["boot.j2:3: Encountered unknown tag 'otherwise'"]),
        ("a\n{{ x", ["boot.j2:2: unexpected end of template"]),
        ("\n{{ x | upcase }}", ["boot.j2:2: there is no filter upcase"]),
        ("\n{% include 'gone' %}", ["boot.j2:2: there is no template gone beside it"]),
        ("{% include '../boot.j2' %}", ["boot.j2:1: there is no template ../boot.j2 beside it"]),
        ("{% include 'gone' ignore missing %}{% include name %}", []),
        ("{% include 'part.j2' %}{% import 'part.j2' as part %}", ["part.j2:2: there is no test oddish"]),
        ("{% extends 'part.j2' %}", ["part.j2:2: there is no test oddish"]),
        ("{% if mac %}\n{{ mac | upcase }}{% endif %}", ["boot.j2:2: there is no filter upcase"]),
        ("{% if 'x' is filter %}{{ mac | x }}{% endif %}", []),
        ("{% block a %}{% endblock %}\n{% block a %}{% endblock %}", ["boot.j2:2: block 'a' defined twice"]),
        # What depends on the machine, and what would take for ever.
        ("{{ nothing }} {{ 1 / 0 }} {{ 9 ** 9 ** 9 ** 9 }} {{ 'x' | center(10 ** 12) }} {% include 'boot.j2' %}", []),
        ("{{ " + "(" * 100_000, ["boot.j2"]),
    ],
)
def test_checked(tmp_path: Path, text: str, faults: list[str]) -> None:
    """What is wrong with a template for every machine is found without rendering it, with file and line."""
    (tmp_path / "boot.j2").write_text(text)
    (tmp_path / "part.j2").write_text("\n{% if 1 is oddish %}{% endif %}")
    found = list(templateFaults(str(tmp_path / "boot.j2"), None))
    assert len(found) == len(faults), found
    for told, fault in zip(found, faults, strict=True):
        assert told.startswith(f"{tmp_path}/{fault}"), told


def test_checkedFiles(tmp_path: Path) -> None:
    """A template that cannot be read is a fault of that file."""
    (tmp_path / "boot.j2").write_bytes(b"\xff")
    assert list(templateFaults(str(tmp_path / "boot.j2"), None)) == [f"{tmp_path}/boot.j2: not UTF-8"]
    (tmp_path / "boot.j2").write_text("{% include 'part.j2' %}")
    (tmp_path / "part.j2").write_bytes(b"\xff")
    assert list(templateFaults(str(tmp_path / "boot.j2"), None)) == [f"{tmp_path}/part.j2: not UTF-8"]
    assert list(templateFaults(str(tmp_path / "gone"), None)) == [f"{tmp_path}/gone: No such file or directory"]


def test_checkCommand(tmp_path: Path) -> None:
    """castd check warns of a template's faults: the server starts with it, and others are served."""
    (tmp_path / "boot.j2").write_text("\n{{ x")
    (tmp_path / "inventory.yaml").write_text("machines: [x]")
    given = {"file": str(tmp_path / "boot.j2"), "names": ["x"], "inventory": str(tmp_path / "inventory.yaml")}
    service = {"castd": 1, "content": [{"template": given}], "transports": {"tftp": {"port": 6969}}}
    (tmp_path / "x.yaml").write_text(json.dumps(service))
    checked = CliRunner().invoke(main, ["check", str(tmp_path / "x.yaml")])
    assert checked.exit_code == 0, checked.output
    warnings = [line for line in checked.output.splitlines() if line.startswith("warning: ")]
    assert len([each for each in warnings if f"{tmp_path}/boot.j2:2: " in each]) == 1
    assert f"warning: {tmp_path}/inventory.yaml:1: machines is no mapping" in warnings


def test_askedTogether(tmp_path: Path) -> None:
    """Who asks for the same while it is being rendered gets the same; who has gone costs nothing."""
    stage = Stage(tmp_path, "x")
    jobs = list[Deferred[Rendered]]()
    stage.source._render = lambda *_: (jobs.append(Deferred()), jobs[-1])[1]
    asked = [stage.site.lookup(Request(("10.0.0.7", port), LOCAL, "boot.ipxe")) for port in (1, 2, 3)]
    asked[1].addErrback(lambda _: None).cancel()
    assert len(jobs) == 1
    jobs[0].callback({"text": "y", "fault": None, "files": []})
    assert [result(each).size for each in (asked[0], asked[2])] == [1, 1]


@pytest.mark.parametrize(
    "wrong", [{"names": []}, {"names": ["a/"]}, {"names": ["{mca}"]}, {"timeout": "0 s"}, {"memory": "1 MiB"}]
)
def test_wrongOptions(wrong: dict[str, Any]) -> None:
    """What cannot work is a fault of the service file."""
    with pytest.raises(ValidationError):
        Options.model_validate({"file": "/srv/x", "names": ["x"], **wrong})


def test_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template or an inventory that is not there is a fault of the service file, and so is a missing library."""
    site = memorySite(Network())
    (tmp_path / "x").write_text("")
    for given, key in (({"file": "no"}, "file: "), ({"file": "x", "inventory": "no"}, "inventory: ")):
        paths = {name: str(tmp_path / path) for name, path in given.items()}
        with pytest.raises(ConfigError, match=key):
            makeSource(Options.model_validate({**paths, "names": ["x"]}), site)
    with pytest.raises(ConfigError, match="File name too long"):
        makeSource(Options(file=tmp_path / ("x" * 300), names=("x",)), site)
    monkeypatch.setattr(template, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="castd\\[template\\]"):
        makeSource(Options(file=tmp_path / "x", names=("x",)), site)


# The processes.


@pytest.mark.slow
def test_aDiskThatDoesNotAnswer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template whose disk does not answer holds up a reload for a moment only, and is looked for when asked for."""
    (tmp_path / "t.j2").write_text("x")
    options = Options.model_validate({"file": str(tmp_path / "t.j2"), "names": ["x"]})
    answers, stat = threading.Event(), os.stat
    asked: list[bool] = []

    def hangs(path: Any, **how: Any) -> os.stat_result:
        if path == options.file:
            asked.append(threading.current_thread() is threading.main_thread())
            answers.wait(5)
        return stat(path, **how)

    monkeypatch.setattr("castd.templates.source.os.stat", hangs)
    monkeypatch.setattr("castd.templates.source.patience", lambda site: 0.05)
    try:
        site = memorySite(Network())
        for _ in range(3):
            assert makeSource(options, site).options == options
    finally:
        answers.set()
    assert asked == [False]


class Process:
    """A process in a test's hand: what it was told, and how it ended."""

    def __init__(self, protocol: RenderProcess) -> None:
        self.protocol, self.told, self.signals = protocol, list[Any](), list[int]()
        protocol.makeConnection(self)

    def write(self, data: bytes) -> None:
        self.told.append(json.loads(data[LENGTH.size :])["template"])

    def signalProcess(self, number: int) -> None:
        self.signals.append(number)

    def say(self, rendered: Rendered) -> None:
        for octet in packed(rendered):
            self.protocol.outReceived(bytes([octet]))

    def ready(self) -> None:
        self.say({"text": None, "fault": None, "files": []})

    def done(self, text: str = "x") -> None:
        self.say({"text": text, "fault": None, "files": []})

    def end(self, status: int | None = None) -> None:
        ended = ProcessDone(0) if status == 0 else ProcessTerminated(status, 9 if status is None else None)
        self.protocol.processEnded(Failure(ended))


class Pool:
    """Renderers with such processes."""

    def __init__(self) -> None:
        self.clock, self.processes = Clock(), list[Process]()
        self.spawns = True
        self.renderers = Renderers(self.clock, self.spawn)

    def spawn(self, protocol: RenderProcess) -> Any:
        if not self.spawns:
            raise OSError(11, "no more processes")
        self.processes.append(Process(protocol))
        return self.processes[-1]

    def render(self, source: str, name: str, memory: int = 64 << 20) -> Deferred[Rendered]:
        job = Job(template=name, inventory=None, known=False, most=1, values={})
        return self.renderers.render(source, job, 2.0, memory)


def test_pool() -> None:
    """Processes are started when needed, used again, and work side by side; of one source one job at a time."""
    pool = Pool()
    done = [pool.render(source, name) for source, name in (("a", "a1"), ("a", "a2"), ("b", "b1"), ("c", "c1"))]
    one, two = pool.processes
    assert (one.told, two.told) == ([], [])
    for each in pool.processes:
        each.ready()
    assert (one.told, two.told) == (["a1"], ["b1"])
    two.done()
    assert two.told == ["b1", "c1"], "a2 waits for a1"
    one.done()
    assert one.told == ["a1", "a2"]
    one.done()
    two.done()
    assert [result(each)["text"] for each in done] == ["x"] * 4
    assert len(pool.processes) == MOST_PROCESSES
    assert not pool.clock.getDelayedCalls()


def test_killed() -> None:
    """One that takes too long is killed, and what waits behind it is rendered by another process."""
    pool = Pool()
    endless, next = pool.render("a", "a1"), pool.render("a", "a2")
    (one,) = pool.processes
    one.ready()
    pool.clock.advance(2.0)
    assert one.signals == [9]
    one.end()
    assert "a1: takes more than 2 s" in str(result(endless)["fault"])
    pool.clock.advance(0)
    pool.processes[1].ready()
    pool.processes[1].done("next")
    assert result(next)["text"] == "next"


@pytest.mark.parametrize(
    ("status", "fault"), [(MEMORY_STATUS, "needs more than 64 MiB"), (1, "has ended"), (None, "has ended")]
)
def test_ended(status: int | None, fault: str) -> None:
    """One that ends by itself says why; the next job gets a new process."""
    pool = Pool()
    done = pool.render("a", "a1")
    pool.processes[0].ready()
    pool.processes[0].end(status)
    assert fault in str(result(done)["fault"])
    pool.clock.advance(0)
    pool.render("a", "a2")
    assert len(pool.processes) == 2


def test_leaving() -> None:
    """A job that comes as its process leaves, without work for so long, is done by another one, first of all."""
    pool = Pool()
    done, behind = pool.render("a", "a1"), pool.render("a", "a2")
    pool.processes[0].ready()
    pool.processes[0].end(0)
    pool.clock.advance(0)
    pool.processes[1].ready()
    assert pool.processes[1].told == ["a1"]
    for _ in range(2):
        pool.processes[1].done()
    assert [result(each)["text"] for each in (done, behind)] == ["x", "x"]


def test_leavingAgain() -> None:
    """A job is given to another process once, and not for ever: whatever makes that one leave may be the job."""
    pool = Pool()
    done = pool.render("a", "a1")
    for process in range(2):
        pool.processes[process].ready()
        pool.processes[process].end(0)
        pool.clock.advance(0)
    assert "has ended" in str(result(done)["fault"])
    assert len(pool.processes) == 2


def test_killedAndLeft() -> None:
    """A process that is killed as it leaves has not left: its job has taken too long."""
    pool = Pool()
    done = pool.render("a", "a1")
    pool.processes[0].ready()
    pool.clock.advance(2.0)
    pool.processes[0].end(0)
    pool.clock.advance(0)
    assert "takes more than 2 s" in str(result(done)["fault"])


def test_neverReady() -> None:
    """A process that does not start is killed."""
    pool = Pool()
    pool.render("a", "a1")
    pool.clock.advance(START_TIMEOUT)
    assert pool.processes[0].signals == [9]


def test_tooMany() -> None:
    """So many jobs wait; who asks beyond that is not answered, and asks again."""
    pool = Pool()
    for number in range(MOST_QUEUED + 1):
        pool.render("a", str(number))
    with pytest.raises(Unanswered):
        result(pool.render("a", "last"))


def test_cannotStart() -> None:
    """
    Where no process can be started, for want of descriptors or memory, no job that waits is answered: its client asks
    again, and it is no fault of the template.
    """
    pool = Pool()
    done = [pool.render("a", "a1"), pool.render("b", "b1")]
    waiting = [pool.render("a", "a2"), pool.render("b", "b2"), pool.render("c", "c1")]
    pool.spawns = False
    for process in pool.processes:
        process.end(1)
    for _ in range(len(waiting)):
        pool.clock.advance(0)
    assert all("has ended" in str(result(each)["fault"]) for each in done)
    for each in (*waiting, pool.render("a", "a3")):
        with pytest.raises(Unanswered, match="no more processes"):
            result(each)
    pool.spawns = True
    pool.render("a", "a4")
    pool.processes[-1].ready()
    assert pool.processes[-1].told == ["a4"]


def test_cannotStartAgain() -> None:
    """Who is told that no process can be started may ask again at once, while others wait."""
    pool = Pool()
    pool.render("a", "a1")
    again = list[Deferred[Rendered]]()
    pool.render("a", "a2").addErrback(lambda _: again.append(pool.render("a", "a2")))
    last = pool.render("a", "a3")
    pool.spawns = False
    pool.processes[0].end(1)
    pool.clock.advance(0)
    pool.clock.advance(0)
    for each in (*again, last):
        with pytest.raises(Unanswered):
            result(each)


def test_neverEnds() -> None:
    """
    A process that waits for a disk may not end when it is killed: its job fails all the same, and what waits for a
    process is not answered, so that the client asks again.
    """
    pool = Pool()
    stuck = [pool.render("a", "a1"), pool.render("b", "b1")]
    waiting = pool.render("c", "c1")
    for process in pool.processes:
        process.ready()
    pool.clock.advance(2.0)
    assert [process.signals for process in pool.processes] == [[9], [9]]
    assert all("takes more than 2 s" in str(result(each)["fault"]) for each in stuck)
    pool.clock.advance(MOST_WAITED - 2.0)
    with pytest.raises(Unanswered):
        result(waiting)
    pool.processes[0].end()
    pool.clock.advance(0)
    pool.render("c", "c2")
    pool.processes[2].ready()
    assert pool.processes[2].told == ["c2"]


def test_killedInTime() -> None:
    """What a killed process has said before counts no more, and it gets no other job."""
    pool = Pool()
    first, second = pool.render("a", "a1"), pool.render("a", "a2")
    pool.processes[0].ready()
    pool.clock.advance(2.0)
    pool.processes[0].done("late")
    assert pool.processes[0].told == ["a1"]
    assert "takes more than 2 s" in str(result(first)["fault"])
    pool.processes[0].end()
    pool.clock.advance(0)
    pool.processes[1].ready()
    pool.processes[1].done()
    assert result(second)["text"] == "x"


@pytest.mark.parametrize(
    "octets",
    [
        LENGTHS.pack(3, 0) + b"\0[}",
        LENGTHS.pack(2**32 - 1, 0),
        LENGTHS.pack(2, LARGEST_TEXT + 1),
        *(
            LENGTHS.pack(len(octets), 1) + octets + text
            for octets, text in (
                (b"[]", b"x"),
                (b"null", b"x"),
                (b'"x"', b"x"),
                (b"1" * 5000, b"x"),
                (b"{}", b"x"),
                (b"[" * 100_000, b"x"),
                (b'{"text": 1, "fault": null, "files": []}', b"x"),
                (b'{"text": "", "fault": null}', b"x"),
                (b'{"text": "", "fault": [], "files": []}', b"x"),
                (b'{"text": "", "fault": null, "files": null}', b"x"),
                (b'{"text": "", "fault": null, "files": [["/a", 1, 2, 3]]}', b"x"),
                (b'{"text": "", "fault": null, "files": [["/a", 1, 2, 3, "4"]]}', b"x"),
                (b'{"text": "", "fault": null, "files": []}', b"\xff"),
            )
        ),
    ],
    ids=range(16),
)
def test_unreadable(octets: bytes) -> None:
    """A process that answers what cannot be read, or more than it may, is killed, and its job fails."""
    pool = Pool()
    done = pool.render("a", "a1")
    pool.processes[0].ready()
    pool.processes[0].protocol.outReceived(octets)
    assert "a1: answers" in str(result(done)["fault"])
    assert pool.processes[0].signals == [9]
    assert pool.clock.getDelayedCalls() == []


@pytest.mark.parametrize("text", ["", "é\n" * (3 << 18)])
def test_largeResult(text: str) -> None:
    """
    A result comes in many pieces, each of which costs what it has, and not what all before have: 16 MiB took 3 s.  It
    is no JSON, which takes longer to read.
    """
    pool = Pool()
    done = pool.render("a", "a1")
    pool.processes[0].ready()
    octets = packed({"text": text, "fault": None, "files": []})
    assert len(octets) < len(text.encode()) + 100
    buffers = list[int]()
    for at in range(0, len(octets) - 1, 8192):
        pool.processes[0].protocol.outReceived(octets[at : min(at + 8192, len(octets) - 1)])
        buffers.append(id(pool.processes[0].protocol._buffer))
    pool.processes[0].protocol.outReceived(octets[-1:])
    assert result(done)["text"] == text
    assert len(set(buffers)) == 1, "what has come is not copied with each piece"


class Jobs(RuleBasedStateMachine):
    """Jobs, and processes to which anything may happen: each job is answered, and none waits without need."""

    #: Seconds within which a job is answered: it waits, and its process starts, at most twice.
    WITHIN = 2 * (MOST_WAITED + START_TIMEOUT + 2.0)

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.asked = Pool(), 0
        self.unanswered: dict[int, float] = {}
        self.ended = set[int]()
        self.answered: dict[int, int] = {}

    def begin(self, source: str, memory: int, again: bool) -> None:
        self.asked += 1
        number = self.asked
        self.unanswered[number] = self.pool.clock.seconds()

        def answered(_: object) -> None:
            del self.unanswered[number]
            if again:
                self.begin(source, memory, False)

        self.pool.render(source, f"{source}{number}", memory).addBoth(answered)

    def process(self, number: int) -> tuple[int, Process] | None:
        """Return one of those that have not ended."""
        left = [each for each in enumerate(self.pool.processes) if each[0] not in self.ended]
        return left[number % len(left)] if left else None

    @rule(source=st.sampled_from("abc"), large=st.booleans(), again=st.booleans())
    def render(self, source: str, large: bool, again: bool) -> None:
        self.begin(source, (128 if large else 64) << 20, again)

    @rule(spawns=st.booleans())
    def shortage(self, spawns: bool) -> None:
        self.pool.spawns = spawns

    @rule(seconds=st.sampled_from([0.5, 2.0, START_TIMEOUT, MOST_WAITED]))
    def wait(self, seconds: float) -> None:
        self.pool.clock.advance(seconds)

    @rule(number=st.integers(0, 5), readable=st.booleans())
    def say(self, number: int, readable: bool) -> None:
        """A process is ready, or answers; what it has said may be read only when it was killed."""
        found = self.process(number)
        if found is None:
            return
        place, process = found
        said = self.answered.get(place, 0)
        if said <= len(process.told):
            self.answered[place] = said + 1
            if readable or not said:
                process.done() if said else process.ready()
            else:
                process.protocol.outReceived(LENGTHS.pack(1, 0) + b"?")

    @rule(number=st.integers(0, 5), status=st.sampled_from([0, 1, MEMORY_STATUS, None]))
    def end(self, number: int, status: int | None) -> None:
        found = self.process(number)
        if found is not None:
            self.ended.add(found[0])
            found[1].end(status)

    @invariant()
    def noneIsForgotten(self) -> None:
        for _ in range(self.asked):
            self.pool.clock.advance(0)
        assert self.pool.renderers._startable() is None, "a process is free for one that waits"
        now = self.pool.clock.seconds()
        assert all(now <= since + self.WITHIN for since in self.unanswered.values())

    @invariant()
    def oneOfEachSource(self) -> None:
        busy = [each.protocol.source for each in self.pool.processes if each.protocol._queued is not None]
        assert len(busy) == len(set(busy)) <= MOST_PROCESSES

    def teardown(self) -> None:
        for _ in range(4):
            self.pool.clock.pump([1.0] * int(self.WITHIN))
        assert not self.unanswered
        for place, process in enumerate(self.pool.processes):
            if place not in self.ended:
                process.end()
        self.pool.clock.advance(0)
        assert not self.pool.clock.getDelayedCalls()


def test_eachIsAnswered() -> None:
    """Whatever happens to processes, each job is answered within its time, and none waits beside a free process."""
    run_state_machine_as_test(Jobs, settings=settings(stateful_step_count=40))


def test_otherMemory() -> None:
    """A job with another limit of memory gets a process with that limit."""
    pool = Pool()
    for memory in (64 << 20, 128 << 20, 256 << 20):
        pool.render("a", "x", memory)
        pool.processes[-1].ready()
        pool.processes[-1].done()
    assert [each.protocol.memory >> 20 for each in pool.processes] == [64, 128, 256]
    assert pool.processes[0].signals == [9], "there are never more than two"


# The real process.


def rendered(
    tmp_path: Path, *texts: str, memory: int = 256, signalled: int | None = None, seconds: int = 60
) -> tuple[list[Any], int]:
    """
    What the program answers to a job for each text, and its exit status.

    @param signalled: the signal that it gets once it is ready.
    @param seconds: how long it may calculate for a job.
    """
    code = f"from castd.templates import child; child.MOST_SECONDS = {seconds}; child.main()"
    argv = [sys.executable, "-c", code, str(memory << 20)]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdin is not None
    assert child.stdout is not None
    found = []
    try:
        with child.stdin as asked, child.stdout as answered:
            for number, text in enumerate(("", *texts)):
                if number:
                    (tmp_path / f"{number}.j2").write_text(text)
                    path = str(tmp_path / f"{number}.j2")
                    job = {
                        "template": path,
                        "inventory": None,
                        "known": False,
                        "most": 1 << 20,
                        "values": {"name": "x"},
                    }
                    octets = json.dumps(job).encode()
                    asked.write(LENGTH.pack(len(octets)) + octets)
                    asked.flush()
                lengths = answered.read(LENGTHS.size)
                if not lengths:
                    break
                length, textLength = LENGTHS.unpack(lengths)
                told, made = json.loads(answered.read(length)), answered.read(textLength).decode()
                found.append(told if told["text"] is None else {**told, "text": made})
                if not number and signalled is not None:
                    child.send_signal(signalled)
    finally:
        status = child.wait(IDLE)
    return found[1:], status


@pytest.mark.slow
def test_endedFirst() -> None:
    """Where memory is short the kernel ends the process of templates, and not the server, which is larger."""
    argv = [sys.executable, "-m", "castd.templates.child", str(256 << 20)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert len(child.stdout.read(LENGTHS.size)) == LENGTHS.size, "it is ready"
        assert Path(f"/proc/{child.pid}/oom_score_adj").read_text() == "1000\n"
        child.stdin.close()
        assert child.wait(IDLE) == 0


@pytest.mark.slow
def test_toldToStop(tmp_path: Path) -> None:
    """A service manager tells all processes to stop; this one goes on until the server has no more work for it."""
    answers, status = rendered(tmp_path, "one", "two", signalled=signal.SIGTERM)
    assert ([each["text"] for each in answers], status) == (["one", "two"], 0)


@pytest.mark.slow
def test_nobodyWatches(tmp_path: Path) -> None:
    """
    A job that calculates for ever is ended by the kernel, where castd has ended and watches it no more.  Each job has
    its own time.
    """
    long = "".join(f"{{% for {each} in range(3000) %}}" for each in "abc") + "{% endfor %}" * 3
    answers, status = rendered(tmp_path, "one", "two", long, signalled=signal.SIGTERM, seconds=1)
    assert ([each["text"] for each in answers], -status) == (["one", "two"], signal.SIGXCPU)


@pytest.mark.slow
def test_realProcess(tmp_path: Path) -> None:
    """The program renders one job after the other, and goes on after a fault; it ends when it is asked nothing more."""
    found, status = rendered(tmp_path, "{{ name }}", "{{ 1 / 0 }}", "é")
    assert [each["text"] for each in found] == ["x", None, "é"]
    assert status == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "{{ 'x' * 10**9 }}",
        "{% set x = namespace(a='xxxxxxxx') %}{% for _ in range(40) %}{% set x.a = x.a ~ x.a %}{% endfor %}",
    ],
)
def test_memoryBomb(tmp_path: Path, text: str) -> None:
    """A template that wants all memory does not get it: its process ends, and says why."""
    began = time.monotonic()
    found, status = rendered(tmp_path, text)
    assert (found, status) == ([], MEMORY_STATUS)
    assert time.monotonic() - began < 30


@pytest.mark.slow
def test_noFilesWritten(tmp_path: Path) -> None:
    """The process can write no file and start no other process, whatever a template finds to call."""
    program = (
        "import os, resource, sys\n"
        "from castd.templates.child import limit\n"
        "limit(256 << 20)\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try: open(sys.argv[1], 'wb', 0).write(b'x')\n"
        "except OSError: print('no file')\n"
        "print(resource.getrlimit(resource.RLIMIT_NPROC), resource.getrlimit(resource.RLIMIT_AS)[0] >> 20)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "x")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["no file", "(0, 0) 256"]
