"""
Shows what a service file can name, C{castd plugins}, and its JSON schema, C{castd schema}.
"""

from __future__ import annotations

import json

import click
from rich.table import Table

from castd.cli.console import addRow, makeConsole, makeTable
from castd.cli.service_file import complain, fail
from castd.config.plugin import Collected, collect
from castd.config.schema import rows, serviceFileSchema
from castd.errors import ConfigError
from castd.service.service import kinds


@click.command()
@click.argument("name", required=False)
def plugins(name: str | None) -> None:
    """List what can be named in a service file; with NAME, its options."""
    collected = collect()
    complain(f"warning: {fault}" for fault in collected.faults)
    makeConsole().print(_optionsOf(collected, name) if name else _makers(collected))


def _makers(collected: Collected) -> Table:
    """Return a table of all transports and sources."""
    table = makeTable("name", "is a", "description")
    for word, makers in (("transport", collected.transports), ("source", collected.sources)):
        for maker in makers.values():
            addRow(table, maker.name, word, maker.description)
    return table


def _optionsOf(collected: Collected, name: str) -> Table:
    """Return a table of the options of one transport or source."""
    maker = collected.transports.get(name) or collected.sources.get(name)
    if maker is None:
        known = ", ".join([*collected.transports, *collected.sources])
        raise click.ClickException(f"nothing here is called {name}; known are {known}")
    try:
        model = maker.options
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    table = makeTable("option", "type", "default", "meaning", title=maker.description)
    for row in rows(model):
        addRow(table, *row)
    return table


@click.command()
def schema() -> None:
    """Print the JSON schema of the service file, for editors."""
    try:
        click.echo(json.dumps(serviceFileSchema(kinds(collect())), indent=2))
    except ConfigError as error:
        raise fail(error) from None
