"""
Gets and puts files from a program: L{fetch} gets a file, L{send} puts one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from socket import AF_INET, SOCK_DGRAM, socket
from typing import TypeAlias

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IHostResolution, IReactorPluggableNameResolver, IResolutionReceiver
from zope.interface import implementer

from castd import outcomes
from castd.cast.policy import RetransmitPolicy
from castd.client.report import Progress, Report, Sink, TransferError, Watcher
from castd.client.schemes import findScheme
from castd.client.transfer import ClientTransfer, IClientReactor
from castd.client.urls import Url, UrlError
from castd.net.sockets import HEADERS, enlargeForWindow
from castd.packets.options import DEFAULT_BLKSIZE
from castd.receive.blocks import Read
from castd.receive.options import RequestedOptions
from castd.receive.tftp import CLIENT_POLICY

#: The largest block that Ethernet carries unfragmented, by IPv4 and by IPv6; and a window that brings most of the gain.
BLKSIZE, BLKSIZE_IPV6, WINDOWSIZE = 1468, 1448, 16
#: ERROR 8 refuses the options; the server may still accept a request without options (RFC 2347).
OPTIONS_REFUSED = 8
#: So many of the first interval are for a request without options, after nothing has answered the one with options.
PLAIN_TIMEOUTS = 3
#: A request without options.
NO_OPTIONS = RequestedOptions(tsize=False)

#: The options to ask for, or a function from the server's address to these options.
OptionsOrFunction: TypeAlias = RequestedOptions | Callable[[str], RequestedOptions]


def defaultOptions(address: str) -> RequestedOptions:
    """Return the options that a server at this address is asked for by default."""
    return RequestedOptions(blksize=BLKSIZE_IPV6 if isIPv6Address(address) else BLKSIZE, windowsize=WINDOWSIZE)


def _fitting(requested: RequestedOptions) -> RequestedOptions:
    """
    Ask for no larger window than a socket of this machine holds, as more would be lost each time; see
    L{castd.net.sockets.enlargeForWindow}.
    """
    windowsize, octets = requested.windowsize or 1, HEADERS + (requested.blksize or DEFAULT_BLKSIZE)
    if windowsize == 1:
        return requested
    with socket(AF_INET, SOCK_DGRAM) as probe:
        room = max(1, enlargeForWindow(probe, windowsize, octets))
    return requested if room >= windowsize else replace(requested, windowsize=room)


def fetch(
    reactor: IClientReactor,
    url: Url,
    sink: Sink,
    requested: OptionsOrFunction = defaultOptions,
    policy: RetransmitPolicy = CLIENT_POLICY,
    progress: Progress | None = None,
    bind: str = "",
    watcher: Watcher | None = None,
) -> Deferred[Report]:
    """
    Get a file.

    @param requested: the options to ask for, or a function from the server's address, once resolved, to these options.
    @param progress: called with (octets, size or L{None}) as blocks come.
    @param bind: the address of this machine to send from; C{""}: the system chooses.
    @param watcher: sees each datagram; L{None}: nobody does.
    @return: fires with the report, or fails with L{TransferError} or L{UrlError}; cancelling sends the server an ERROR.
    """

    def begin(server: tuple[str, int], options: RequestedOptions, policy: RetransmitPolicy) -> Deferred[Report]:
        scheme = findScheme(url)
        download = scheme.plain if options == NO_OPTIONS and scheme.plain is not None else scheme.download
        half = download(url, _fitting(options), policy)
        return ClientTransfer(reactor, half, server, sink, progress, bind, watcher).start()

    return Deferred.fromCoroutine(_attempt(reactor, url, requested, policy, begin, watcher))


def send(
    reactor: IClientReactor,
    url: Url,
    size: int,
    read: Read,
    requested: OptionsOrFunction = defaultOptions,
    policy: RetransmitPolicy = CLIENT_POLICY,
    progress: Progress | None = None,
    bind: str = "",
    watcher: Watcher | None = None,
) -> Deferred[Report]:
    """
    Put a file.  For a URL in netascii mode, C{read} returns netascii already.

    @param size: octets of the file, as they go on the wire.
    @param read: C{read(offset, length)} returns octets of the file.
    @return: as L{fetch}.
    """

    def begin(server: tuple[str, int], options: RequestedOptions, policy: RetransmitPolicy) -> Deferred[Report]:
        upload = findScheme(url).upload
        if upload is None:
            raise UrlError(f"{url.scheme}:// has no writes")
        half = upload(url, size, read, options, policy)
        return ClientTransfer(reactor, half, server, None, progress, bind, watcher).start()

    return Deferred.fromCoroutine(_attempt(reactor, url, requested, policy, begin, watcher))


async def _attempt(
    reactor: IReactorPluggableNameResolver,
    url: Url,
    requested: OptionsOrFunction,
    policy: RetransmitPolicy,
    begin: Callable[[tuple[str, int], RequestedOptions, RetransmitPolicy], Deferred[Report]],
    watcher: Watcher | None,
) -> Report:
    """
    Try a transfer once with options; if the server refuses these, or can do nothing with them, once without.

    A server that does not answer at all is given up after the time of the policy, of which the last L{PLAIN_TIMEOUTS}
    intervals are for the request without options.
    """
    scheme = findScheme(url)
    server = (await resolve(reactor, url.host), url.port or scheme.port)
    options = requested if isinstance(requested, RequestedOptions) else requested(server[0])
    whole = policy.patience(False)
    last = min(PLAIN_TIMEOUTS * policy.repeat.first, whole / 2)
    twice = scheme.plain is not None and options != NO_OPTIONS
    try:
        return await begin(server, options, replace(policy, unheardTimeout=whole - last) if twice else policy)
    except TransferError as error:
        refused = error.code == OPTIONS_REFUSED
        helpless = twice and error.early and (error.code == 0 or error.outcome == outcomes.SILENT)
        if options == NO_OPTIONS or not (refused or helpless):
            raise
        if watcher is not None:
            watcher.note(f"{error}: once more without options")
        first = error
    try:
        return await begin(server, NO_OPTIONS, replace(policy, unheardTimeout=last))
    except TransferError as error:
        # If there is only silence now, the first failure says more.
        raise first if error.outcome == outcomes.SILENT else error from None


def resolve(reactor: IReactorPluggableNameResolver, host: str) -> Deferred[str]:
    """
    Find the first address of a host.

    @return: fires with the address; fails with L{TransferError} if the host has none.
    """
    found: Deferred[str] = Deferred()
    if isIPAddress(host) or isIPv6Address(host):
        found.callback(host)
    else:
        reactor.nameResolver.resolveHostName(_FirstAddress(host, found), host)
    return found


@implementer(IResolutionReceiver)
class _FirstAddress:
    """Fires a Deferred with the first address of a name."""

    def __init__(self, host: str, found: Deferred[str]) -> None:
        self._host = host
        self._found = found

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """Do nothing."""

    def addressResolved(self, address: IAddress) -> None:
        """Fire with this address, if it is the first."""
        if isinstance(address, (IPv4Address, IPv6Address)) and not self._found.called:
            self._found.callback(address.host)

    def resolutionComplete(self) -> None:
        """Fail, if there was no address."""
        if not self._found.called:
            self._found.errback(TransferError(outcomes.FAILED, f"no such host: {self._host}"))
