"""
What is written of the service file and of the commands: it is current, and true.
"""

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from castd.cli.main import main as castd
from castd.config import yaml
from castd.config.config import Config, build
from castd.config.schema import SECTIONS, rows, serviceFileSchema, showValue
from castd.files.upload_options import UploadDirectoryOptions
from castd.options import Limits
from castd.templates.source import Options as TemplateOptions
from tests.support.needs import run

ROOT = Path(__file__).parent.parent
EVERYTHING = ROOT / "etc" / "castd.yaml"


def script() -> Any:
    """scripts/reference.py as a module."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFERENCE = script()
KINDS = REFERENCE.stock()


def load(text: str) -> Config:
    return build(yaml.parse(text.encode(), "castd.yaml"), EVERYTHING, KINDS)


def uncommented() -> str:
    """The file with every default taken out of its comment."""
    return re.sub(r"^#(?! \S)", "", EVERYTHING.read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("file", REFERENCE.files(), ids=lambda file: file.name)
def test_current(file: Path) -> None:
    """Each of these files is what scripts/reference.py would write."""
    assert file.read_text() == REFERENCE.files()[file]


def test_everythingLoads() -> None:
    """etc/castd.yaml is a service file."""
    assert [entry.name for entry in load(EVERYTHING.read_text()).transports] == ["tftp"]


def test_defaults() -> None:
    """Every default that etc/castd.yaml shows in a comment is the one that holds without it."""
    plain, full = load(EVERYTHING.read_text()), load(uncommented())
    assert full.transports[-1].options == plain.transports[-1].options
    directory, template = [each.options for each in full.content]
    assert [directory] == [each.options for each in plain.content]
    assert template == TemplateOptions(file=Path("/srv/templates/boot.ipxe"), names=("boot.ipxe",))
    assert (full.limits, full.logging, full.metrics) == (plain.limits, plain.logging, plain.metrics)
    assert [each.options for each in full.uploads] == [UploadDirectoryOptions(path=Path("/var/lib/castd/uploads"))]


def test_everyKey() -> None:
    """No key of any model is missing from etc/castd.yaml."""
    tree = yaml.parse(uncommented().encode(), "castd.yaml")
    value: Any = tree.value
    for name, model in SECTIONS.items():
        assert list(value[name]) == [row.key for row in rows(model) if "." not in row.key]
    for kind, maker in KINDS.transports.items():
        assert set(value["transports"][kind]) == set(maker.options.model_json_schema()["properties"])
    assert set(value["uploads"][0]["directory"]) == set(UploadDirectoryOptions.model_json_schema()["properties"])


def test_described() -> None:
    """Every option of everything that comes with castd has a sentence for the operator."""
    makers = [*KINDS.transports.values(), *KINDS.content.values(), *KINDS.uploads.values()]
    models = [*(maker.options for maker in makers), KINDS.access, *SECTIONS.values()]
    assert [row.key for model in models for row in rows(model) if not row.description] == []


def test_rows() -> None:
    """A model becomes rows of key, type, default and meaning, as an operator would write them."""
    shown = {row.key: row[1:3] for row in rows(Limits)}
    assert shown["casts"] == ("number, from 1", "4096")
    assert shown["new-per-peer"] == ("frequency", "50/s")
    assert shown["rate"] == ("rate", "null")
    assert shown["drain"] == ("duration", "20 s")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        ("", '""'),
        ("any", "any"),
        (0.1, "0.1"),
        (0, "0"),
        (1, "1"),
        ([], "[]"),
        (["a", 1], "[a, 1]"),
        ({}, "{}"),
        ({"a": "b"}, "{a: b}"),
    ],
)
def test_written(value: object, text: str) -> None:
    """A default is shown as it would stand in the file."""
    assert showValue(value) == text


def refs(schema: Any) -> list[str]:
    """Every place that a schema points to."""
    if isinstance(schema, list):
        return [each for item in schema for each in refs(item)]
    if not isinstance(schema, dict):
        return []
    here = [schema["$ref"]] if "$ref" in schema else []
    return here + [each for item in schema.values() for each in refs(item)]


def test_schema() -> None:
    """The JSON schema is whole: what it points to is there, and each kind may be named with and without `use`."""
    schema = json.loads(json.dumps(serviceFileSchema(KINDS)))
    assert {ref.removeprefix("#/$defs/") for ref in refs(schema)} == set(schema["$defs"])
    assert schema["$defs"]["transports.tftp"]["properties"]["use"] == {"const": "tftp"}
    assert schema["$defs"]["limits"]["properties"]["drain"]["default"] == "20 s"
    assert schema["properties"]["transports"]["minProperties"] == 1


MANUAL = ROOT / "docs" / "man"


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Return each command, with the name of its page."""
    yield name, command
    for below, each in REFERENCE.commandsOf(command):
        yield from commands(each, f"{name}-{below}")


COMMANDS = dict(commands(castd, "castd"))


def test_aPageForEachCommand() -> None:
    """Every command has a manual page, and no page is left of one that is gone."""
    assert {page.stem for page in MANUAL.iterdir()} == set(COMMANDS)


def squeezed(text: str) -> str:
    """Return a text without spaces and without the hyphens at the ends of its lines."""
    return re.sub(r"\s", "", re.sub("[\u2010-]\\s*", "-", text)).replace("-", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_manualPage(name: str) -> None:
    """groff has nothing to say against a manual page, and shows all of the command's help, its epilog and options."""
    shown = run("groff", "-ww", "-k", "-Tutf8", "-P-cbou", "-man", "-rHY=0", MANUAL / f"{name}.1", check=True)
    assert shown.stderr == ""
    command, page = COMMANDS[name], squeezed(shown.stdout)
    helps = [each.help or "" for each in command.params if isinstance(each, click.Option)]
    assert [text for text in (command.help, command.epilog, *helps) if text and squeezed(text) not in page] == []
    words = [word for each in command.params for word in each.opts if word.startswith("-")]
    assert [word for word in words if squeezed(word) not in page] == []


def test_forTroff() -> None:
    """What troff would obey in a text is shown instead: a dot or an apostrophe at the start of a line, a backslash."""
    first, second = REFERENCE.forTroff(".so x"), REFERENCE.forTroff("'til a\\b")
    page = f".TH X 1\n.SH X\n{first}\n{second}\n"
    shown = run("groff", "-ww", "-Tascii", "-P-cbou", "-man", input=page, check=True)
    assert (shown.stderr, squeezed(shown.stdout).count(".sox'tila\\b")) == ("", 1)
