"""
Generates from the code what the documentation says of it: the reference of the service file, its JSON schema, the
service file with every key and its default, the tables of metrics and of verdicts, and the manual page of each
command.

    python scripts/reference.py            writes all of them
    python scripts/reference.py --check    names those that are out of date, with exit status 1
"""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click
from click_man.core import generate_man_page
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from castd import __version__  # noqa: E402
from castd.cli.main import main as castd  # noqa: E402
from castd.config.config import Kinds  # noqa: E402
from castd.config.plugin import ContentSourceMaker, ServiceMaker, TransportMaker  # noqa: E402
from castd.config.schema import SECTIONS, Row, rows, serviceFileSchema, showValue  # noqa: E402
from castd.files.access import Rule  # noqa: E402
from castd.observe.metrics import EVENT_METRICS, GAUGES  # noqa: E402
from castd.plugins import castd_stock  # noqa: E402
from castd.profiles.stock import STOCK  # noqa: E402
from castd.service.build import SINKS  # noqa: E402
from castd.verdicts import RULES  # noqa: E402

#: Values of required options, by section and key, where the example of the option's type does not do.
EXAMPLES = {
    ("content", "file"): "/srv/templates/boot.ipxe",
    ("content", "names"): "[boot.ipxe]",
    ("transports", "file"): "vmlinuz",
    ("transports", "subnets"): "[10.1.2.0/24]",
    ("transports", "files"): "{vmlinuz: 239.255.1.1:3001}",
    ("transports", "rules"): "[{boot: boot.ipxe}]",
    ("uploads", "path"): "/var/lib/castd/uploads",
}

#: Lines between the title of a section and its table.
NOTES = {"logging": ("Under `twist` the log itself is kept by `twist`, and only `json` holds.", "")}


def stock() -> Kinds:
    """Return what comes with castd, whatever else is installed here."""
    announced = vars(castd_stock).values()
    transports = {each.name: each for each in announced if isinstance(each, TransportMaker | ServiceMaker)}
    sources = {each.name: each for each in announced if isinstance(each, ContentSourceMaker)}
    return Kinds(transports, sources, SINKS, Rule)


# The reference.


def optionTable(model: type[BaseModel]) -> Iterator[str]:
    """Write the options of a model as a table in Markdown."""
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for row in rows(model):
        cells = (f"`{row.key}`", row.kind, f"`{row.default}`" if row.default != "required" else "required")
        yield f"| {' | '.join((*cells, row.description))} |".replace("\\1", "`\\1`")
    yield ""


def reference(kinds: Kinds) -> str:
    """Return docs/service-file.md: what is written by hand, then a table for each kind and section."""
    lines = [*(ROOT / "docs" / "service-file.in.md").read_text().splitlines(), ""]
    for kind, maker in kinds.transports.items():
        lines += [f"### `{kind}`", "", f"{maker.description}.", "", *optionTable(maker.options)]
    lines += ["## content", "", "A list; the first source that has a name answers.", ""]
    for kind, source in kinds.content.items():
        lines += [f"### `{kind}`", "", f"{source.description}.", "", *optionTable(source.options)]
    lines += ["## uploads", "", "A list; an upload goes to the first that has a place for its name.", ""]
    for kind, sink in kinds.uploads.items():
        lines += [f"### `{kind}`", "", *optionTable(sink.options)]
    rules = (
        "A list of rules; the first that matches decides, and without a match the answer is no. Without this section"
    )
    lines += ["## access", "", f"{rules} everybody may read, and nobody may write.", "", *optionTable(kinds.access)]
    for name, model in SECTIONS.items():
        lines += [f"## {name}", "", *NOTES.get(name, ()), *optionTable(model)]
    return "\n".join(lines).rstrip() + "\n"


# The file with every key.


def optionLine(row: Row, indent: str, commented: bool) -> str:
    """Write an option with its default; the meaning stands behind it."""
    option = f"{'#' if commented else ''}{indent}{row.key}: {row.default}"
    return f"{option:<40}# {row.description}".rstrip()


def optionLines(section: str, model: type[BaseModel], indent: str, commented: bool) -> Iterator[str]:
    """Write each option of a model: what is required is set unless C{commented}, the rest stands in comments."""
    schema = model.model_json_schema(by_alias=True)
    properties, required = schema["properties"], schema.get("required", ())
    shown = [row for row in rows(model) if row.key in properties]
    for row in sorted(shown, key=lambda row: row.key not in required):
        if row.key in required:
            value = EXAMPLES.get((section, row.key)) or showValue(properties[row.key].get("examples", ["example"])[0])
            yield optionLine(row._replace(default=value), indent, commented)
        else:
            yield optionLine(row, indent, commented=True)


def exampleFile(kinds: Kinds) -> str:
    """Return etc/castd.yaml: a service file with every key."""
    lines = [
        "# The service file of castd, with every key and its default.  What is set here has no default; to set more,",
        "# take away the '#' at the start of a line and of those above that it belongs to.  See docs/service-file.md",
        "",
        f"{'castd: 1':<40}# the schema of this file",
        "",
        "# Asked in order; the first that has the name answers.  Paths are relative to the folder of this file.",
        "content:",
    ]
    for kind, source in kinds.content.items():
        commented = kind != "directory"
        mark = "#" if commented else ""
        lines += [f"{mark}  - {kind}:", *optionLines("content", source.options, "      ", commented)]
    lines += [
        "",
        "# Where uploads go, to the first that has a place for the name.  Without this section writes are refused.",
    ]
    lines += ["#uploads:"]
    for kind, sink in kinds.uploads.items():
        lines += [f"#  - {kind}:", *optionLines("uploads", sink.options, "      ", commented=True)]
    lines += [
        "",
        "# The first rule that matches decides; without a match the answer is no.  Without this section all may read.",
        "access:",
        '  - {allow: any, for: read}             # or: {allow: 10.0.0.0/8, names: ["*.efi", "images/**"]}',
    ]
    for name, model in SECTIONS.items():
        lines += ["", f"#{name}:", *optionLines(name, model, "  ", commented=True)]
    lines += ["", "# Name: options.  The kind is what 'use' says, or else the name."]
    lines += ["# Those at one address and port are asked in this order, so the plain tftp comes last.", "transports:"]
    for kind, maker in sorted(kinds.transports.items(), key=lambda each: each[0] == "tftp"):
        commented = kind != "tftp"
        lines += [f"{'#' if commented else ''}  {kind}:", *optionLines("transports", maker.options, "    ", commented)]
    return "\n".join(lines) + "\n"


# The table of metrics.

#: What encloses the table in docs/metrics.md.
BEGIN, END = "<!-- scripts/reference.py writes this table -->\n", "<!-- end of the table -->\n"


def metricsPage(page: str) -> str:
    """Return docs/metrics.md, with its table as it has to be."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for metric in (*EVENT_METRICS, *GAUGES):
        name = f"{metric.name}_total" if metric.kind == "counter" else metric.name
        rows.append(f"| `{name}` | {metric.kind} | {', '.join(metric.labels) or '–'} | {metric.help} |")
    return "".join((head, BEGIN, "\n", *(f"{row}\n" for row in rows), "\n", END, tail))


def profilesPage(text: str) -> str:
    """Return docs/profiles.md with the table of castd's own profiles as it is in the code, in place of the old one."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    table = ["| profile | client | what it does | source |", "|---|---|---|---|"]
    table += [f"| `{each.options.name}` | {each.client} | {each.does} | {each.source} |" for each in STOCK]
    return "".join((head, BEGIN, "\n", *(f"{row}\n" for row in table), "\n", END, tail))


def verdictsPage(text: str) -> str:
    """Return docs/verdicts.md with the table of verdicts as it is in the code, in place of the old one."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    table = ["| verdict | seen | cause | cure |", "|---|---|---|---|"]
    for rule in RULES:
        cells = (f"`{rule.id}`", rule.seen, rule.cause, rule.cure)
        table.append(f"| {' | '.join(cells)} |".replace("{{", "{").replace("}}", "}"))
    return "".join((head, BEGIN, "\n", *(f"{row}\n" for row in table), "\n", END, tail))


# The manual pages.

#: A line that troff would obey, and a backslash, which it would read.
CONTROL, BACKSLASH = re.compile(r"^(?=[.'])", re.MULTILINE), "\\"


def forTroff(text: str) -> str:
    """Return a text that troff shows as it is."""
    return CONTROL.sub(r"\\&", text.replace(BACKSLASH, r"\e"))


def commandsOf(command: click.Command) -> list[tuple[str, click.Command]]:
    """Return the commands below one, by their names."""
    if not isinstance(command, click.Group):
        return []
    context = click.Context(command)
    found = [(name, command.get_command(context, name)) for name in command.list_commands(context)]
    return [(name, each) for name, each in found if each is not None]


def withHelpForTroff(command: click.Command) -> click.Command:
    """
    Return a copy of a command whose help troff shows as it is.  Its first sentence is the line that C{apropos} finds;
    click-man would end that after 45 characters.
    """
    made = copy.copy(command)
    text = cleandoc(command.help or "")
    made.help = forTroff("\n\n".join(filter(None, (text, cleandoc(command.epilog or "")))))
    made.short_help = " ".join(re.split(r"(?<=\.)\s", text)[0].split()).rstrip(".")
    made.params = [copy.copy(each) for each in command.params]
    for each in made.params:
        if isinstance(each, click.Option) and each.help is not None:
            each.help = forTroff(each.help)
    if isinstance(made, click.Group):
        made.commands = {name: withHelpForTroff(each) for name, each in commandsOf(made)}
    return made


def manualPages(command: click.Command, name: str, above: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """Return the file name and the text of the manual page of a command, and of each command below it."""
    context = click.Context(command, info_name=name, parent=above)
    page = context.command_path.replace(" ", "-")
    # A page says of which version it is.  The day on which it was made would change it each day.
    yield f"{page}.1", generate_man_page(context, version=f"castd {__version__}", date=" ")
    for below, each in commandsOf(command):
        if not each.hidden:
            yield from manualPages(each, below, context)


def files() -> dict[Path, str]:
    """Return what has to stand in each file."""
    kinds = stock()
    metrics, verdicts = ROOT / "docs" / "metrics.md", ROOT / "docs" / "verdicts.md"
    profiles = ROOT / "docs" / "profiles.md"
    pages = manualPages(withHelpForTroff(castd), "castd")
    return {
        **{ROOT / "docs" / "man" / name: text for name, text in pages},
        ROOT / "docs" / "service-file.md": reference(kinds),
        ROOT / "docs" / "castd.schema.json": json.dumps(serviceFileSchema(kinds), indent=2) + "\n",
        ROOT / "etc" / "castd.yaml": exampleFile(kinds),
        metrics: metricsPage(metrics.read_text()),
        verdicts: verdictsPage(verdicts.read_text()),
        profiles: profilesPage(profiles.read_text()),
    }


def main() -> None:
    """Write the files that are out of date, or name them."""
    stale = [file for file, text in files().items() if not file.exists() or file.read_text() != text]
    if "--check" in sys.argv[1:]:
        sys.stderr.writelines(f"{file.relative_to(ROOT)} is out of date: run scripts/reference.py\n" for file in stale)
        raise SystemExit(bool(stale))
    for file in stale:
        file.parent.mkdir(exist_ok=True)
        file.write_text(files()[file])


if __name__ == "__main__":
    main()
