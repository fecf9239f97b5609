"""`castd import` makes of each configuration of the corpus the service file and notes beside it, and castd takes it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from castd.cli import importing, main
from castd.config.yaml import parse
from castd.errors import ConfigError
from castd.files.names import Patterns
from castd.migrate import patterns
from castd.migrate.draft import Draft, OldMachine, Place
from castd.migrate.readers import READERS, readConfiguration
from castd.migrate.writer import dump, write

CORPUS = sorted((Path(__file__).parent / "migrate").glob("*.yaml"))
CASES = [pytest.param(path, id=path.stem) for path in CORPUS]


def machineOf(case: dict[str, Any], root: Path) -> OldMachine:
    """The machine of a case, with its files beneath a folder."""
    for path, text in case.get("files", {}).items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    interfaces = {name: IPv4Interface(each) for name, each in case.get("interfaces", {}).items()}
    return OldMachine(interfaces, case.get("ipv6", True), root, lambda path, user: case.get("stores"))


def imported(case: dict[str, Any], root: Path) -> tuple[str, list[str]]:
    """Return the service file of a case, and its notes."""
    machine = machineOf(case, root)
    draft = readConfiguration(case["server"], case.get("arguments", ()), case.get("command"), machine)
    return write(draft), [importing.show(note) for note in draft.notes]


@pytest.mark.parametrize("path", CASES)
def test_corpus(path: Path, tmp_path: Path) -> None:
    """A configuration becomes exactly this file, with these notes.  CASTD_CORPUS=write writes what it becomes."""
    whole = path.read_text()
    case = yaml.safe_load(whole)
    text, notes = imported(case, tmp_path)
    if os.environ.get("CASTD_CORPUS") == "write":
        head = re.split(r"^notes:", whole, maxsplit=1, flags=re.MULTILINE)[0].rstrip("\n")
        told = "".join(f"  - {json.dumps(note, ensure_ascii=False)}\n" for note in notes)
        shown = "".join(f"  {line}\n" if line else "\n" for line in text.rstrip("\n").split("\n"))
        path.write_text(f"{head}\nnotes:{' []' * (not notes)}\n{told}becomes: |\n{shown}")
        case = yaml.safe_load(path.read_text())
    assert text == case["becomes"]
    assert notes == case["notes"]


def adapted(text: str, root: Path) -> str:
    """A service file for this machine: its directories beneath a folder, its addresses that of the loopback interface."""
    folders = re.findall(r"path: (/[^,}\n]*)", text)
    for each in folders:
        (root / each.lstrip("/")).mkdir(parents=True, exist_ok=True)
    text = re.sub(r"path: (/[^,}\n]*)", lambda found: f"path: {root}{found[1]}", text)
    return re.sub(r"(interface: )(?:192|10)\.[0-9.]+", r"\g<1>127.0.0.1", text)


@pytest.mark.parametrize("path", CASES)
def test_starts(path: Path, tmp_path: Path) -> None:
    """castd check takes what a configuration becomes, where its directories and addresses are."""
    file = tmp_path / "castd.yaml"
    file.write_text(adapted(yaml.safe_load(path.read_text())["becomes"], tmp_path / "disk"))
    checked = CliRunner().invoke(main.main, ["check", str(file)])
    assert checked.exit_code == 0, checked.output
