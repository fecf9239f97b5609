"""`castd status --watch` shows rates and what happened last, and goes on when the server comes back."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from castd.cli import main, status
from castd.cli.status import Rates, ServerStatus


def told(age: float = 60.0, **octets: int) -> ServerStatus:
    """Return the status of a server with one transfer for each name, of this age, which has sent so many octets."""
    return {
        "version": "1.2",
        "state": "serving",
        "unready": None,
        "seconds": 5.0,
        "file": "x.yaml",
        "addresses": [
            {
                "address": "*:69",
                "transports": ["tftp"],
                "retiring": False,
                "casts": [
                    {
                        "transport": "tftp",
                        "kind": "unicast",
                        "name": name,
                        "group": None,
                        "size": 1 << 20,
                        "octets": sent,
                        "blocks": 1,
                        "repeats": 0,
                        "seconds": age,
                        "receivers": [
                            {"peer": f"10.0.0.{number}:2000", "name": name, "sent": 1, "needed": 2, "seconds": 1.0}
                        ],
                    }
                    for number, (name, sent) in enumerate(octets.items(), 1)
                ],
            }
        ],
    }


def test_rates() -> None:
    """A rate is what was sent from one look to the next; one that began meanwhile has sent all of it since."""
    rates = Rates()
    assert rates.measure(told(a=1000), 10.0) == {}
    assert sorted(rates.measure(told(a=5000, b=300), 12.0).values()) == [150.0, 2000.0]
    assert sorted(rates.measure(told(a=5000, b=300), 13.0).values()) == [0.0, 0.0]
    assert rates.measure(told(a=5000, b=300), 13.0) == {}


def test_askedAgain() -> None:
    """A transfer that began since the look before is another one, whatever its machine was sent then."""
    rates = Rates()
    rates.measure(told(kernel=5000), 10.0)
    assert list(rates.measure(told(kernel=300, age=1.5), 12.0).values()) == [150.0]
    assert list(rates.measure(told(kernel=700, age=3.5), 14.0).values()) == [200.0]
    assert list(rates.measure(told(kernel=9000, age=0.5), 16.0).values()) == [4500.0]


class Server:
    """Answers the command in place of a server, and ends it after so many looks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, looks: int) -> None:
        self.looks = looks
        self.octets = 0
        self.down = False
        monkeypatch.setattr(status, "ask", self.ask)
        monkeypatch.setattr(status.time, "sleep", self.sleep)
        monkeypatch.setattr(status.time, "monotonic", lambda: self.octets / 1024)

    def ask(self, path: str, command: str, **about: object) -> Any:
        if self.down:
            raise click.ClickException("control: no answer")
        if command == "history":
            entry = {
                "time": "2026-11-26T10:00:00.000+00:00",
                "message": "tftp: 10.0.0.9:1 kernel: complete",
                "times": 2,
                "fields": {"mac": "52:54:00:66:00:10", "arch": "efi-x64"},
            }
            return {"entries": [entry]}
        return told(kernel=self.octets)

    def sleep(self, seconds: float) -> None:
        self.octets += 2048
        self.looks -= 1
        if not self.looks:
            raise KeyboardInterrupt

    def run(self, *options: str) -> Result:
        return CliRunner().invoke(main.main, ["status", *options])


def test_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look shows the transfers with their rates, and the latest events below; Ctrl-C is no failure."""
    said = Server(monkeypatch, looks=2).run("--watch")
    assert said.exit_code == 0
    assert said.stdout.count("castd 1.2, serving, 0:05, x.yaml") == 2
    assert said.stdout.count("complete (2 times) [52:54:00:66:00:10, efi-x64]") == 2
    assert "1.0 KiB/s" in said.stdout


def test_watchAsJson(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --json each look is a line."""
    said = Server(monkeypatch, looks=3).run("--watch", "5", "--json")
    assert [json.loads(line)["version"] for line in said.stdout.splitlines()] == ["1.2"] * 3


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_restart(monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]) -> None:
    """A server that is away for a moment is shown as such, and then again; JSON is on standard output alone."""
    server = Server(monkeypatch, looks=3)

    def sleep(seconds: float) -> None:
        server.down = not server.down
        server.sleep(seconds)

    monkeypatch.setattr(status.time, "sleep", sleep)
    said = server.run("--watch", *options)
    assert said.exit_code == 0
    if options:
        assert said.stderr == "control: no answer\n"
        assert [json.loads(line)["version"] for line in said.stdout.splitlines()] == ["1.2"] * 2
    else:
        assert said.stdout.count("no answer") == 1
        assert said.stdout.count("castd 1.2") == 2


def test_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the transfers stands what failed last, why and how often; the same is in the JSON."""
    failure = {
        "time": "2026-11-26T10:00:00.000+00:00",
        "address": "10.0.0.9",
        "name": "a\x1b[31m",
        "times": 3,
        "message": "tftp: 10.0.0.9:1 a\x1b[31m: the client fell silent",
        "verdict": "mtu",
        "why": "too large: caps",
    }
    monkeypatch.setattr(status, "ask", lambda path, command: {**told(kernel=1), "failures": [failure] * 30})
    shown = CliRunner().invoke(main.main, ["status"]).stdout.splitlines()
    assert len([line for line in shown if line.startswith("failed: ")]) == status.LATEST
    assert shown[-1].endswith("a\\x1b[31m: the client fell silent (3 times); too large: caps")
    assert len(json.loads(CliRunner().invoke(main.main, ["status", "--json"]).stdout)["failures"]) == 30


def test_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that are in no log, and events that are not in the history, are told where an operator looks first."""
    found: ServerStatus = {**told(kernel=1), "log": {"omitted": 7, "lost": 3}, "history": {"path": None, "lost": 2}}
    monkeypatch.setattr(status, "ask", lambda path, command: found)
    assert CliRunner().invoke(main.main, ["status"]).stdout.splitlines()[-1] == (
        "missing: 7 left out of the log, as there were too many in a minute; 3 lost on their way to the log; "
        "2 not in the history"
    )
    none: ServerStatus = {**told(kernel=1), "log": {"omitted": 0, "lost": 0}, "history": {"path": None, "lost": 0}}
    monkeypatch.setattr(status, "ask", lambda path, command: none)
    assert "missing" not in CliRunner().invoke(main.main, ["status"]).stdout


def test_inForce() -> None:
    """Where a reload has brought another service file, it is said for how long that is in force."""
    line = "castd 1.2, serving, 0:05, x.yaml"
    assert status.head(told(kernel=1)) == status.head({**told(kernel=1), "inForceSeconds": 5.0}) == line
    assert status.head({**told(kernel=1), "inForceSeconds": 2.0}) == f"{line} (in force for 0:02)"


def test_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --watch there is one look, and no rates."""
    said = Server(monkeypatch, looks=1).run()
    assert (said.exit_code, "rate" in said.stdout, "kernel" in said.stdout) == (0, False, True)
