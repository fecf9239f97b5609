"""
The client: files fetched and sent.  Other schemes than C{tftp} come by L{SCHEMES}.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress

from castd import outcomes
from castd.cast.policy import RetransmitPolicy
from castd.client.report import Progress, Report, Sink, TransferError
from castd.client.transfer import ClientTransfer
from castd.client.urls import Url, UrlError
from castd.options import groupEndpoint
from castd.receive import mtftp, slam
from castd.receive.blocks import Read
from castd.receive.group import MulticastDownload
from castd.receive.netascii import NetasciiDownload
from castd.receive.options import RequestedOptions
from castd.receive.tftp import CLIENT_POLICY, TftpDownload, TftpUpload

#: The largest block that Ethernet carries in one piece, by IPv4 and IPv6; and a window that most of the gain is in.
BLKSIZE, BLKSIZE_IPV6, WINDOWSIZE = 1468, 1448, 16
#: ERROR 8 refuses options; a request without any may still be welcome (RFC 2347).
OPTIONS_REFUSED = 8

Wanted: TypeAlias = RequestedOptions | Callable[[str], RequestedOptions]


@dataclass(frozen=True, slots=True)
class Scheme:
    """
    How files of one URL scheme are had.

    @ivar port: where requests go if the URL does not say.
    @ivar download: makes the collector of a read.
    @ivar upload: the same for a write, with the size and what reads; L{None}: there are no writes.
    @ivar named: its URLs name a file.
    """

    port: int
    download: Callable[[Url, RequestedOptions, RetransmitPolicy], Any]
    upload: Callable[[Url, int, Read, RequestedOptions, RetransmitPolicy], Any] | None = None
    named: bool = True


def _download(url: Url, requested: RequestedOptions, policy: RetransmitPolicy) -> Any:
    if url.mode == "netascii":
        return NetasciiDownload(url.name, requested, policy)
    return TftpDownload(url.name, requested, url.mode, policy)


def _upload(url: Url, size: int, read: Read, requested: RequestedOptions, policy: RetransmitPolicy) -> Any:
    return TftpUpload(url.name, size, read, requested, url.mode, policy)


def _tftm(url: Url, requested: RequestedOptions, policy: RetransmitPolicy) -> Any:
    if url.mode == "netascii":
        return _download(url, requested, policy)
    return MulticastDownload(url.name, requested, policy)


def _slam(url: Url, requested: RequestedOptions, policy: RetransmitPolicy) -> Any:
    return slam.SlamDownload(policy, slamGroup(url))


def _mtftp(url: Url, requested: RequestedOptions, policy: RetransmitPolicy) -> Any:
    return mtftp.MtftpDownload(url.name, policy, mtftpGroup(url))


def mtftpGroup(url: Url) -> tuple[str, int]:
    """
    -> the group that an C{mtftp} URL names at its end, or the only one that iPXE knows.

    @raise UrlError: it is none.
    """
    if url.group is None:
        return mtftp.GROUP
    try:
        return groupEndpoint(url.group)
    except ValueError as error:
        raise UrlError(str(error)) from error


def slamGroup(url: Url) -> tuple[str, int]:
    """
    -> the group that follows the slash of a C{slam} URL: C{group:port}, either of them, or nothing.

    @raise UrlError: something else follows it.
    """
    address, _, number = url.path.partition(":")
    port = int(number) if number.isascii() and number.isdigit() and len(number) < 6 else 0 if number else slam.GROUP[1]
    if (address and not (isIPAddress(address) and 224 <= int(address.partition(".")[0]) < 240)) or not 0 < port < 65536:
        raise UrlError(f"{url.path} is not a group and a port, such as 239.255.1.1:10000")
    return address or slam.GROUP[0], port


#: By the name in front of C{://}.
SCHEMES: dict[str, Scheme] = {
    "tftp": Scheme(69, _download, _upload),
    "tftm": Scheme(69, _tftm),
    "slam": Scheme(10000, _slam, named=False),
    "mtftp": Scheme(1759, _mtftp),
}


def scheme(url: Url) -> Scheme:
    """
    @raise UrlError: nobody knows this scheme.
    """
    found = SCHEMES.get(url.scheme)
    if found is None:
        raise UrlError(f"{url.scheme}:// is not known here; known are {', '.join(sorted(SCHEMES))}")
    return found


def defaultOptions(address: str) -> RequestedOptions:
    """What is asked of a server at this address if nobody wants anything else."""
    return RequestedOptions(blksize=BLKSIZE_IPV6 if isIPv6Address(address) else BLKSIZE, windowsize=WINDOWSIZE)


def fetch(
    reactor: Any,
    url: Url,
    sink: Sink,
    requested: Wanted = defaultOptions,
    policy: RetransmitPolicy = CLIENT_POLICY,
    progress: Progress | None = None,
) -> Deferred[Report]:
    """
    Get a file.

    @param requested: the options to ask for; or what tells them for the server's address, which is resolved first.
    @param progress: called with (octets, size or L{None}) as blocks come.
    @return: fails with L{TransferError}, L{UrlError}; cancelling it tells the server.
    """

    def begin(server: tuple[str, int], wanted: RequestedOptions) -> Deferred[Report]:
        collector = scheme(url).download(url, wanted, policy)
        return ClientTransfer(reactor, collector, server, sink, progress).start()

    return Deferred.fromCoroutine(_attempt(reactor, url, requested, begin))


def send(
    reactor: Any,
    url: Url,
    size: int,
    read: Read,
    requested: Wanted = defaultOptions,
    policy: RetransmitPolicy = CLIENT_POLICY,
    progress: Progress | None = None,
) -> Deferred[Report]:
    """
    Put a file.  For a URL in netascii mode what is read is netascii already.

    @param size: octets.
    @param read: C{read(offset, length)}.
    @return: as L{fetch}.
    """

    def begin(server: tuple[str, int], wanted: RequestedOptions) -> Deferred[Report]:
        upload = scheme(url).upload
        if upload is None:
            raise UrlError(f"{url.scheme}:// has no writes")
        return ClientTransfer(reactor, upload(url, size, read, wanted, policy), server, None, progress).start()

    return Deferred.fromCoroutine(_attempt(reactor, url, requested, begin))


async def _attempt(
    reactor: Any,
    url: Url,
    requested: Wanted,
    begin: Callable[[tuple[str, int], RequestedOptions], Deferred[Report]],
) -> Report:
    """Once with options; if these are refused, once without."""
    port = url.port or scheme(url).port
    server = (await resolve(reactor, url.host), port)
    wanted = requested if isinstance(requested, RequestedOptions) else requested(server[0])
    try:
        return await begin(server, wanted)
    except TransferError as error:
        if error.code != OPTIONS_REFUSED or not wanted.options():
            raise
    return await begin(server, RequestedOptions(tsize=False))


def resolve(reactor: Any, host: str) -> Deferred[str]:
    """
    -> the first address of a host; fails with L{TransferError} if it has none.
    """
    found: Deferred[str] = Deferred()
    if isIPAddress(host) or isIPv6Address(host):
        found.callback(host)
    else:
        reactor.nameResolver.resolveHostName(_First(host, found), host)
    return found


class _First:
    """Takes the first address that a name has (C{IResolutionReceiver})."""

    def __init__(self, host: str, found: Deferred[str]) -> None:
        self._host = host
        self._found = found

    def resolutionBegan(self, resolution: object) -> None:
        """Nothing to prepare."""

    def addressResolved(self, address: IAddress) -> None:
        """One of them."""
        if not self._found.called:
            self._found.callback(address.host)  # type: ignore[attr-defined]

    def resolutionComplete(self) -> None:
        """There are no more."""
        if not self._found.called:
            self._found.errback(TransferError(outcomes.FAILED, f"no such host: {self._host}"))
