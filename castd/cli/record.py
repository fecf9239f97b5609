"""
Writes what goes between machines and a running server to a file: C{castd record}.
"""

from __future__ import annotations

import time
from base64 import b64decode
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from castd.cli.control import ask, control
from castd.cli.seconds import SecondsRange

if TYPE_CHECKING:
    from castd.service.recorders import RecordAnswer

#: Seconds that one question waits: the less, the more packets of a fast transfer are kept.
ROUND = 1.0


class _ClientAddress(click.ParamType[str]):
    """A numeric address, in the form in which the server has it."""

    name = "address"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return str(ip_address(str(value)))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@control
@click.option("--client", type=_ClientAddress(), metavar="ADDRESS", help="Of this machine only.")
@click.option("--name", metavar="PATTERN", help="Of these files only, such as '*.efi'.")
@click.option("--seconds", type=SecondsRange(0, 86400), default=0.0, help="For so long; now only if not given.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The capture.")
def record(path: str, client: str | None, name: str | None, seconds: float, output: Path) -> None:
    """
    Write the last packets of the transfers under way to a file, which Wireshark and tshark can read.

    The service file must name a folder: recorder: {directory: ...}.  It also says how many packets are kept of each
    machine, and whether the content of files is among them.  What the file held before is replaced once the server has
    answered.  Exit status 1: it has no such packets, or does not answer.
    """
    until, since, packets = time.monotonic() + seconds, None, 0
    try:
        with ExitStack() as opened:
            file: BinaryIO | None = None
            while True:
                wait = min(ROUND, max(0.0, until - time.monotonic()))
                answer: RecordAnswer = ask(path, "record", client=client, name=name, since=since, seconds=wait)
                since, packets = answer["until"], packets + answer["packets"]
                ends = time.monotonic() >= until
                if file is None and (packets or not ends):
                    # Not before the server has answered: else a capture that is there would be lost for nothing.
                    file = opened.enter_context(output.open("wb"))
                if file is not None:
                    file.write(b64decode(answer["capture"]))
                    file.flush()  # who ends it by Ctrl-C, or looks meanwhile, has all that came
                if ends:
                    break
    except OSError as error:
        raise click.ClickException(f"{output}: {error.strerror}") from None
    told = f"no packets: {output} is not written" if file is None else f"{packets} packets in {output}"
    click.echo(told, err=True)
    if not packets:
        raise SystemExit(1)
