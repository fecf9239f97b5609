"""
Prints the DHCP option that makes a boot ROM use MTFTP, for C{castd dhcp43}.
"""

from __future__ import annotations

import click

from castd.options import groupEndpoint
from castd.packets.dhcp import option43
from castd.packets.mtftp import PORT

_SECONDS = click.IntRange(1, 255)


@click.command()
@click.argument("group", metavar="GROUP:PORT")
@click.option("--port", type=click.IntRange(1, 65535), default=PORT, show_default=True, help="Where requests go.")
@click.option("--listen", type=_SECONDS, default=2, show_default=True, help="Seconds it listens before it asks.")
@click.option("--silence", type=_SECONDS, default=2, show_default=True, help="Seconds of silence until it asks again.")
def dhcp43(group: str, port: int, listen: int, silence: int) -> None:
    """
    Print DHCP's option 43 for a file that is sent to GROUP:PORT.

    Its ports have their low octet first; typed as numbers into a DHCP server they come out swapped, so use the octets.
    """
    try:
        place = groupEndpoint(group)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    octets = option43(place, port, listen, silence)
    inside = octets[2:].hex(":")
    click.echo(f"octets:   {octets.hex(' ')}")
    click.echo(f"dnsmasq:  dhcp-option-force=43,{inside}")
    click.echo(f"ISC:      option vendor-encapsulated-options {inside};")
