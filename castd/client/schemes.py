"""
Maps the schemes of URLs to the transfer halves that fetch and send files, such as C{tftp://host/file}.

A plugin adds a scheme of its own with L{registerScheme}.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from castd.cast.policy import RetransmitPolicy
from castd.client.urls import Url, UrlError
from castd.interfaces import IClientTransferHalf
from castd.options import groupEndpoint
from castd.packets.mtftp import IPXE_GROUP as MTFTP_GROUP
from castd.packets.mtftp import PORT as MTFTP_PORT
from castd.packets.slam import IPXE_GROUP as SLAM_GROUP
from castd.packets.slam import PORT as SLAM_PORT
from castd.receive.blocks import Read
from castd.receive.group import MulticastDownload
from castd.receive.mtftp import MtftpDownload
from castd.receive.netascii import NetasciiDownload
from castd.receive.options import RequestedOptions
from castd.receive.slam import SlamDownload
from castd.receive.tftp import TftpDownload, TftpUpload

#: Makes the client's half of a read: C{download(url, requested, policy)}.
Download: TypeAlias = Callable[[Url, RequestedOptions, RetransmitPolicy], IClientTransferHalf]
#: Makes the client's half of a write: C{upload(url, size, read, requested, policy)}.
Upload: TypeAlias = Callable[[Url, int, Read, RequestedOptions, RetransmitPolicy], IClientTransferHalf]


@dataclass(frozen=True, slots=True)
class Scheme:
    """
    One scheme of URLs: its port, and the functions that make the client's halves of a transfer.

    @ivar port: the port of the server for URLs that name none.
    @ivar download: makes the half of a read; raises L{UrlError} if the URL cannot be used.
    @ivar upload: makes the half of a write; L{None}: the scheme has no writes.
    @ivar named: URLs of this scheme name a file.
    @ivar plain: makes the half of a read whose request has no options at all; L{None}: no request of this scheme has.
    """

    port: int
    download: Download
    upload: Upload | None = None
    named: bool = True
    plain: Download | None = None


def _tftpDownload(url: Url, requested: RequestedOptions, policy: RetransmitPolicy) -> IClientTransferHalf:
    if url.mode == "netascii":
        return NetasciiDownload(url.name, requested, policy)
    return TftpDownload(url.name, requested, url.mode, policy)


def _tftpUpload(
    url: Url, size: int, read: Read, requested: RequestedOptions, policy: RetransmitPolicy
) -> IClientTransferHalf:
    return TftpUpload(url.name, size, read, requested, url.mode, policy)


def _multicastDownload(url: Url, requested: RequestedOptions, policy: RetransmitPolicy) -> IClientTransferHalf:
    if url.mode == "netascii":
        return _tftpDownload(url, requested, policy)
    return MulticastDownload(url.name, requested, policy)


def _slamDownload(url: Url, requested: RequestedOptions, policy: RetransmitPolicy) -> IClientTransferHalf:
    return SlamDownload(policy, slamGroup(url))


def _mtftpDownload(url: Url, requested: RequestedOptions, policy: RetransmitPolicy) -> IClientTransferHalf:
    return MtftpDownload(url.name, policy, mtftpGroup(url))


def mtftpGroup(url: Url) -> tuple[str, int]:
    """
    Return the group that an C{mtftp} URL names at its end; by default the only group that iPXE listens to.

    @raise UrlError: the text at the end is no group and port.
    """
    if url.group is None:
        return MTFTP_GROUP
    try:
        return groupEndpoint(url.group)
    except ValueError as error:
        raise UrlError(str(error)) from error


def slamGroup(url: Url) -> tuple[str, int]:
    """
    Return the group that follows the slash of a C{slam} URL: C{group:port}, only one of both, or nothing.

    @raise UrlError: the text behind the slash is none of these.
    """
    address, _, number = url.path.partition(":")
    usual, usualPort = SLAM_GROUP
    try:
        return groupEndpoint(f"{address or usual}:{number or usualPort}")
    except ValueError as error:
        raise UrlError(str(error)) from None


_SCHEMES: dict[str, Scheme] = {
    "tftp": Scheme(69, _tftpDownload, _tftpUpload, plain=_tftpDownload),
    "tftm": Scheme(69, _multicastDownload, plain=_tftpDownload),
    "slam": Scheme(SLAM_PORT, _slamDownload, named=False),
    "mtftp": Scheme(MTFTP_PORT, _mtftpDownload),
}


def registerScheme(name: str, scheme: Scheme) -> None:
    """
    Make URLs that begin with C{name://} known to L{fetch<castd.client.client.fetch>} and
    L{send<castd.client.client.send>}, and so to C{castd get} and C{castd put}.

    @param name: the name of the scheme, in lower case.
    @raise ValueError: another scheme has this name already.
    """
    if _SCHEMES.setdefault(name, scheme) != scheme:
        raise ValueError(f"{name}:// is registered already")


def findScheme(url: Url) -> Scheme:
    """
    Return the scheme of a URL.

    @raise UrlError: the scheme is not known.
    """
    scheme = _SCHEMES.get(url.scheme)
    if scheme is None:
        raise UrlError(f"{url.scheme}:// is not known here; known are {', '.join(sorted(_SCHEMES))}")
    return scheme
