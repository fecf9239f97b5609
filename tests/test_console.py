"""What a stranger has named is shown by the commands as it is: no markup, no picture, nothing that a terminal obeys."""

import io

import pytest
from rich.console import Console

from castd.cli import console, display
from castd.cli.display import Display, Result
from castd.cli.status import ServerStatus, table
from castd.observe.status import AddressStatus

HOSTILE = ("[red]big[/nope].img", "[/]", "a :smile: b", "fd77:1::1", ":1:", "\x1b[2Jgone", "two\nlines", "\u202eright")


def shown(name: str, peer: str) -> str:
    """Return what C{castd status} prints for one receiver, to a pipe."""
    address: AddressStatus = {
        "address": "[fd77:1::1]:69",
        "transports": ["tftp"],
        "retiring": False,
        "casts": [
            {
                "transport": "tftp",
                "kind": "unicast",
                "name": name,
                "group": None,
                "size": 1,
                "octets": 1,
                "blocks": 1,
                "repeats": 0,
                "seconds": 1.0,
                "receivers": [{"peer": peer, "name": name, "sent": 1, "needed": 2, "seconds": 1.0}],
            }
        ],
    }
    status: ServerStatus = {
        "version": "1",
        "state": "serving",
        "unready": None,
        "seconds": 1.0,
        "file": "x",
        "addresses": [address],
    }
    made = console.makeConsole()
    with made.capture() as captured:
        made.print(table(status))
    return captured.get()


@pytest.mark.parametrize("name", HOSTILE)
def test_statusShowsNames(name: str) -> None:
    """A name of any characters is in the table, on one line; what a terminal would obey is escaped."""
    lines = shown(name, "[fd77:1::1]:2000").splitlines()
    assert len(lines) == 2
    expected = {"\x1b[2Jgone": "\\x1b[2Jgone", "two\nlines": "two\\x0alines", "\u202eright": "\\xe2\\x80\\xaeright"}
    assert f"  {expected.get(name, name)}  " in lines[1]
    assert "[fd77:1::1]:2000" in lines[1]


def test_noFolds() -> None:
    """A pipe gets a row on one line, however long the name; a program that reads it need not put it together."""
    name = "a/very/long/path/" * 30
    assert f"  {name}  " in shown(name, "10.0.0.9:2000").splitlines()[1]


@pytest.mark.parametrize("name", HOSTILE)
def test_barsShowNames(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar with such a name is drawn, and the name stands beside it as it is."""
    page = io.StringIO()
    terminal = Console(file=page, force_terminal=True, width=200, markup=False, emoji=False, highlight=False)
    monkeypatch.setattr(display, "makeConsole", lambda stderr: terminal)
    shown = Display("get", quiet=False, json=False, checksum=False)
    with shown.live():
        progress = shown.progress(name)
        assert progress is not None
        progress(1, 2)
    text = page.getvalue()
    assert "\x1b[2J" not in text
    assert (name if name.isprintable() else "\\x") in text


def test_errorsShowText(capsys: pytest.CaptureFixture[str]) -> None:
    """The text of a server's ERROR cannot move the cursor."""
    Display("get", quiet=False, json=False, checksum=False).showResult(
        Result("tftp://h/x", "x", status=3, outcome="refused", error="no\x1b[2J")
    )
    assert capsys.readouterr().err == "castd get: tftp://h/x: no\\x1b[2J\n"
