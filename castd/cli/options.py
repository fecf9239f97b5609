"""
Defines the options that C{castd get} and C{castd put} have in common.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import click
from twisted.internet.abstract import isIPAddress, isIPv6Address

from castd.cast.policy import MIN_RTO, AdaptiveTimeout, RetransmitPolicy
from castd.cli.seconds import SecondsRange
from castd.client.client import defaultOptions
from castd.client.schemes import Scheme, findScheme
from castd.client.urls import Url, UrlError, parseUrl
from castd.receive.options import RequestedOptions

STATUSES = """
Exit status: 0 all is well; 1 a transfer failed: no answer, silence, a closed port, a full disk; 2 wrong usage; 3 the
server refused (its ERROR code is shown; 1 is "file not found"); 4 a checksum is not the one that was given; 130
interrupted.  Of several files, the largest counts.
"""


_Command = TypeVar("_Command", bound=Callable[..., object])


@dataclass(frozen=True)
class TransferOptions:
    """The options of both commands, as the user gave them."""

    blksize: int | None
    windowsize: int | None
    timeout: float
    retries: int
    sha256: str | None
    netascii: bool
    quiet: bool
    json: bool
    verbose: bool = False
    bind: str = ""

    def __post_init__(self) -> None:
        """@raise click.UsageError: two options do not go together."""
        if self.quiet and self.verbose:
            raise click.UsageError("-q shows nothing, and -v everything: give one of them")

    def requested(self, address: str) -> RequestedOptions:
        """Return the TFTP options that a server at this address is asked for."""
        default = defaultOptions(address)
        return replace(
            default,
            blksize=default.blksize if self.blksize is None else self.blksize,
            windowsize=default.windowsize if self.windowsize is None else self.windowsize,
        )

    def policy(self) -> RetransmitPolicy:
        """
        Return a policy with C{retries} repetitions, in intervals that grow from C{timeout} to 8 s; a server that is
        silent for their sum is given up.
        """
        repeat = AdaptiveTimeout(first=self.timeout, floor=min(MIN_RTO, self.timeout), ceiling=max(8.0, self.timeout))
        silence = sum(min(self.timeout * 2**tries, repeat.ceiling) for tries in range(self.retries + 1))
        return RetransmitPolicy(repeat=repeat, progressTimeout=silence, maxRepeatsUnheard=None)

    def url(self, text: str) -> Url:
        """
        Parse a URL, and add the mode that the user chose.

        @raise click.UsageError: the text is no URL, or its scheme is not known.
        """
        try:
            url = parseUrl(text)
            knownScheme(url)
        except UrlError as error:
            raise click.UsageError(f"{text}: {error}") from error
        return replace(url, path=f"{url.path};mode=netascii") if self.netascii and url.mode == "octet" else url


def knownScheme(url: Url) -> Scheme:
    """
    Return the scheme of a URL; if it is none of castd's own, plugins are imported first.

    @raise UrlError: the scheme is not known.
    """
    try:
        return findScheme(url)
    except UrlError:
        # Imported here: hardly any URL needs it, and it takes half of the time in which a small file is fetched.
        from castd.config.plugin import collect

        for fault in collect().faults:
            click.echo(f"warning: {fault}", err=True)
    return findScheme(url)


class ChecksumCommand(click.Command):
    """A command whose option C{--sha256} may stand without a value anywhere on the command line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, after giving each C{--sha256} that no checksum follows an empty value."""
        pairs = zip(args, [*args[1:], ""], strict=False)
        args = ["--sha256=" if word == "--sha256" and not _isSha256(after) else word for word, after in pairs]
        return super().parse_args(ctx, args)


def _isSha256(text: str) -> bool:
    return re.fullmatch("[0-9a-fA-F]{64}", text) is not None


def _sha256(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value and not _isSha256(value):
        raise click.BadParameter("a checksum has 64 hexadecimal digits")
    return value.lower() if value else value


def _address(context: click.Context, parameter: click.Parameter, value: str) -> str:
    plain = value.partition("%")[0]
    if value and not (isIPAddress(plain) or isIPv6Address(plain)):
        raise click.BadParameter(f"{value} is no numeric address, such as 10.0.0.7")
    return value


def transferOptions(command: _Command) -> _Command:
    """Add the options that both commands have to a command."""
    for option in reversed(
        (
            click.option("--blksize", type=click.IntRange(8, 65464), help="Largest block size to ask for, octets."),
            click.option("--windowsize", type=click.IntRange(1, 65535), help="Largest window to ask for, blocks."),
            click.option(
                "--timeout",
                type=SecondsRange(0.01, 255),
                default=1.0,
                show_default=True,
                help="Seconds until an unanswered request is repeated; each time twice as long, up to 8.",
            ),
            click.option(
                "--retries",
                type=click.IntRange(0, 100),
                default=5,
                show_default=True,
                help="Repetitions into silence; the time they take is the longest silence that is borne.",
            ),
            click.option(
                "--sha256",
                metavar="[HEX]",
                callback=_sha256,
                help="Show the file's checksum, or compare it with this one.",
            ),
            click.option("--netascii", is_flag=True, help="A text: convert the ends of its lines."),
            click.option("-q", "--quiet", is_flag=True, help="Nothing but errors."),
            click.option(
                "-v", "--verbose", is_flag=True, help="Each packet that goes or comes, a line each, on stderr."
            ),
            click.option(
                "--bind",
                metavar="ADDRESS",
                default="",
                callback=_address,
                help="The address of this machine to send from; its network hears the groups.",
            ),
            click.option("--json", is_flag=True, help="One line of JSON for each file, on the standard output."),
        )
    ):
        command = option(command)
    return command
