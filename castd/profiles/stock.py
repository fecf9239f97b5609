"""
List the clients that castd knows by their requests, each with what it does, and where that was seen.

Most of them need nothing, since castd does for everybody what the most sensitive of them need
(C{docs/transports/tftp.md}, Clients): they are listed so that the log and the metrics name them, and so that profiles
of a service file can refer to them (C{like}).  C{docs/profiles.md} has this list as a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from castd.profiles.options import CONTROL, DHCP_END, ProfileOptions


class StockProfile(NamedTuple):
    """
    A profile of castd's own.

    @ivar client: who it is.
    @ivar does: how its requests are told from others, and what is done for it.
    @ivar source: where that was read or seen.
    """

    options: ProfileOptions
    client: str
    does: str
    source: str


def _profile(name: str, match: Mapping[str, object], **effects: object) -> ProfileOptions:
    """Return a profile, from what would stand in a service file."""
    return ProfileOptions.model_validate({"name": name, "match": match, **effects})


def _known(name: str, match: Mapping[str, object], client: str, does: str, source: str) -> StockProfile:
    """Return the profile of a client that needs nothing."""
    return StockProfile(_profile(name, match), client, does, source)


def _asking(*options: str) -> Mapping[str, object]:
    """Return what matches reads with these options, in the mode octet."""
    return {"options": options, "mode": "octet", "for": "read"}


#: The inside of a set of a pattern.
_JUNK = CONTROL + DHCP_END

#: In the order in which they are applied.
STOCK: tuple[StockProfile, ...] = (
    StockProfile(
        _profile(
            "name-junk",
            {"names": (f"*[{_JUNK}]*", f"**/*[{_JUNK}]*/**"), "for": "read"},
            junk=True,
        ),
        "PXE ROMs and firmware that take what lies behind the boot file's name in DHCP for a part of it",
        "the name has octet 0xff, the end of DHCP's options and in no UTF-8, or ends with control octets: cut there",
        "early Intel PXE ROMs (NetBSD's list tech-userlevel, 2 March 2003, subject tftpd); Kontron VX3040, Jetway "
        "J7F4, Lenovo T460 (netbootxyz/netboot.xyz issue 1198); digitalfoundations.com.au, Remapping file names with "
        "tftp-hpa for buggy PXE clients",
    ),
    _known(
        "ipxe",
        _asking("blksize=1432", "tsize=0", "multicast?"),
        "iPXE",
        "blksize 1432, tsize 0, and multicast for tftm://",
        "iPXE src/net/udp/tftp.c",
    ),
    _known(
        "pxelinux",
        _asking("tsize=0", "blksize=1408"),
        "PXELINUX (BIOS)",
        "tsize 0, blksize 1408; it cannot do without tsize",
        "Syslinux core/fs/pxe/tftp.c",
    ),
    _known(
        "grub",
        _asking("blksize=1024", "tsize=0"),
        "GRUB",
        "blksize 1024, tsize 0; it must get an OACK, so do not set oack: false for it",
        "GRUB grub-core/net/tftp.c",
    ),
    _known(
        "u-boot",
        _asking("timeout", "tsize?", "blksize", "windowsize?", "multicast?"),
        "U-Boot",
        "timeout first, then tsize, the size of its last file, and blksize",
        "U-Boot net/tftp.c",
    ),
    _known(
        "edk2",
        _asking("tsize?=0", "blksize=1468", "windowsize?"),
        "UEFI firmware made from EDK II",
        "tsize 0 in a first request that only asks for the size, blksize 1468, windowsize 4 since 2018",
        "EDK II NetworkPkg/UefiPxeBcDxe/PxeBcMtftp.c; tianocore/edk2 issue 7264; pin/tftp issue 125",
    ),
    _known(
        "intel-pxe",
        _asking("blksize=1456"),
        "PXE ROMs of Intel and others",
        "blksize 1456; many of them cannot put fragments together",
        "not read in a program: blksize 1456 as it is commonly seen",
    ),
    _known(
        "wds",
        {"asks": ("msftwindow",)},
        "Windows Deployment Services' boot programs",
        "msftwindow, which is granted to nobody; backslashes in names, which count as slashes for everybody",
        "Wireshark epan/dissectors/packet-tftp.c",
    ),
    _known(
        "curl",
        {"options": ("tsize", "blksize", "timeout")},
        "curl",
        "tsize, blksize, timeout in this order, in reads and writes; it gets no tsize of an empty file",
        "curl lib/tftp.c; curl 7.88 was run",
    ),
    _known(
        "atftp",
        _asking("tsize?=0", "timeout?", "blksize?", "multicast=", "windowsize?"),
        "atftp, with multicast",
        "of tsize, timeout, blksize, multicast, windowsize those that were asked for, in this order; multicast always",
        "atftp tftp_file.c, options.c",
    ),
    _known(
        "network-station",
        {"asks": ("sbroadcast",), "for": "read"},
        "IBM Network Station",
        "sbroadcast",
        "IBM, IBM Network Station Manager, SG24-5187",
    ),
    _known(
        "cisco",
        {"names": ("*-confg", "cisconet.cfg", "ciscortr.cfg"), "options": (), "for": "read"},
        "Cisco IOS, AutoInstall",
        "names that end in -confg, and two more, without options, often by broadcast (broadcast: true)",
        "AIS AI2524 router card manual, chapter 5",
    ),
    _known(
        "hikvision",
        {"names": ("digicap.dav",), "for": "read"},
        "boot loaders of Hikvision's cameras and recorders",
        "the name digicap.dav; they bear blocks that were not negotiated, which castd never sends",
        "scottlamb/hikvision-tftpd issues 4 and 19",
    ),
)

#: By their names.
BY_NAME = {each.options.name: each for each in STOCK}


def chosen(names: Iterable[str]) -> tuple[ProfileOptions, ...]:
    """Return the profiles of castd's own, without those of these names."""
    without = frozenset(names)
    return tuple(each.options for each in STOCK if each.options.name not in without)
