"""
Explains what a request would get, and why: C{castd explain}, by a service file or by what a running server has.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import click
from twisted.internet.defer import Deferred

from castd.cli.control import ask, control
from castd.cli.service_file import FILE
from castd.cli.status import failureLine
from castd.cli.transfer import ICommandReactor, commandReactor, runUntil
from castd.config.plugin import collect
from castd.errors import ConfigError
from castd.files.names import printable
from castd.net.ports import Ports
from castd.server.random import BufferedSystemRandom
from castd.service.explain import DryRequest, ExplainAnswer, Explanation, Step
from castd.service.service import compose, read

#: Exit statuses.
SERVED, REFUSED, UNKNOWN = 0, 1, 2


@click.command()
@click.argument("file", required=False, type=FILE)
@click.option("-c", "--config", type=FILE, help="The service file.")
@click.option("--running", is_flag=True, help="Ask the running server, in place of a service file.")
@control
@click.option("--client", required=True, metavar="ADDRESS", help="The machine that would ask.")
@click.option("--name", required=True, help="The name that it would ask for.")
@click.option("--write", is_flag=True, help="It would write the file.")
@click.option("--options", multiple=True, metavar="NAME=VALUE", help="An option of its request; may be repeated.")
@click.option("--netascii", is_flag=True, help="It would ask for a text.")
@click.option("--to", metavar="ADDRESS:PORT", help="Where it would ask; if not given, at each address there is.")
@click.option("--json", "plain", is_flag=True, help="As JSON.")
@click.pass_context
def explain(
    context: click.Context,
    file: Path | None,
    config: Path | None,
    running: bool,
    path: str,
    client: str,
    name: str,
    write: bool,
    options: tuple[str, ...],
    netascii: bool,
    to: str | None,
    plain: bool,
) -> None:
    """
    Say what a request would get, and why, and serve nothing.

    Exit status: 0 it would be served; 1 it would be refused, or not be answered; 2 that cannot be found out.
    """
    question: dict[str, object] = {
        "client": client,
        "name": name,
        "write": write,
        "mode": "netascii" if netascii else "octet",
        "options": list(options),
        "to": to,
    }
    try:
        asked = DryRequest.read(question)
        asked.datagram()
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    where = file or config
    if running is (where is not None) or (file is not None and config is not None):
        raise click.UsageError("Of which server?  castd explain FILE, or castd explain --running")
    found = _askRunning(path, question) if where is None else _explainFile(where, asked, commandReactor(context))
    if plain:
        click.echo(json.dumps(found, indent=2))
    else:
        for each in found["explanations"]:
            for line in lines(each):
                click.echo(line)
        for line in known(found):
            click.echo(line)
    raise SystemExit(SERVED if found["served"] else REFUSED)


def _askRunning(path: str, question: dict[str, object]) -> ExplainAnswer:
    try:
        found: ExplainAnswer = ask(path, "explain", **question)
    except click.ClickException as error:
        _giveUp(error.message)
    return found


def _explainFile(file: Path, asked: DryRequest, reactor: ICommandReactor) -> ExplainAnswer:
    """Explain by a service file, whose server is made and opens no port."""
    collected = collect()
    try:
        server = compose(read(file, collected), collected, reactor, Ports(reactor, BufferedSystemRandom()))
    except ConfigError as error:
        _giveUp(*error.faults)
    answers: list[ExplainAnswer] = []

    def keep(answer: ExplainAnswer) -> int:
        answers.append(answer)
        return SERVED

    def begin() -> Deferred[int]:
        return server.explain(asked).addCallback(keep)

    status = runUntil(reactor, begin)
    if not answers:
        raise SystemExit(status)
    return answers[0]


def _giveUp(*reasons: str) -> NoReturn:
    """Print why nothing can be found out, and exit."""
    for each in reasons:
        click.echo(each, err=True)
    raise SystemExit(UNKNOWN)


def lines(found: Explanation) -> list[str]:
    """Return the address that is asked, the steps there, a line for each, and the verdict as the last line."""
    inside = [*map(_stepLine, found["steps"]), verdict(found)]
    return [found["to"], *(printable(f"  {line}") for line in inside)]


def known(found: ExplainAnswer) -> list[str]:
    """Return lines about the machine, and about what has failed before, as a running server knows it."""
    told = []
    if (machine := found.get("machine")) is not None:
        words = {"MAC": machine["mac"], "UUID": machine["uuid"], "architecture": machine["arch"]}
        said = ", ".join(f"{word} {value}" for word, value in words.items() if value is not None)
        told.append(f"machine      {said or 'not known: no neighbour, in no lease, and has said nothing by DHCP'}")
    told += [f"before       {failureLine(each)}" for each in found.get("before") or ()]
    return [printable(line) for line in told]


def _stepLine(step: Step) -> str:
    where = "" if step["where"] is None else f"{step['where']}: "
    return f"{step['step']:<10} {where}{step['text']}"


def verdict(found: Explanation) -> str:
    """Return what the client would get, in one line."""
    answer, by = found["answer"], "" if found["transport"] is None else f" by {found['transport']}"
    if answer["kind"] == "nothing":
        return f"{'verdict':<10} not answered"
    options = "".join(f" {name}={value}" for name, value in answer["options"].items())
    if answer["kind"] == "other":
        return (
            f"{'verdict':<10} {'served' if found['served'] else 'refused'}{by} with the first datagram of its protocol"
        )
    if found["served"]:
        return f"{'verdict':<10} served{by} with {answer['kind']}{options}"
    return f"{'verdict':<10} refused{by}: ERROR {answer['code']} {answer['text']}"
