"""
Read and write what PXE and iPXE put into DHCP options: vendor option 43, architectures, machine ids, user classes.

Sources: Intel's PXE specification 2.1; RFC 4578 (options 93, 94, 97), RFC 3004 (option 77); the lists of iPXE
(C{src/include/ipxe/dhcp.h}, C{features.h}).  docs/transports/proxydhcp.md says which client was seen to do what.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address

from castd.errors import WireError

#: What a PXE client's vendor class begins with, and all of a PXE server's.
PXE_CLIENT = b"PXEClient"
#: Octets of the longest value of one DHCP option.
LARGEST_OPTION = 255

# Sub-options of option 43.
DISCOVERY_CONTROL = 6
DISCOVERY_GROUP = 7
BOOT_SERVERS = 8
BOOT_MENU = 9
MENU_PROMPT = 10
BOOT_ITEM = 71

#: DISCOVERY_CONTROL: no broadcast discovery, no multicast discovery, only the servers of the list; take the file of the
#: first offer.
NO_BROADCAST, NO_MULTICAST, ONLY_LISTED, TAKE_FILE = 1, 2, 4, 8
#: The type of the menu item that boots from the next device.
LOCAL_BOOT = 0
#: The first type of a boot server that is free for everybody.
FIRST_TYPE = 0x8000
#: Bit of a layer: the client asks for credentials (BIS), which nobody serves.
CREDENTIALS = 0x8000
#: Seconds of a MENU_PROMPT: take the first item at once; show the menu at once, and wait for ever.
AT_ONCE, FOR_EVER = 0, 255
#: Seconds of a ROM that uses MTFTP: it listens so long before it asks, and asks again after so long without a packet.
MTFTP_LISTEN = MTFTP_SILENCE = 2

#: Words for the numbers of option 93 (IANA's "Processor Architecture Types").
ARCHITECTURES: Mapping[int, str] = {
    0: "bios",
    1: "pc98",
    2: "efi-itanium",
    3: "alpha",
    4: "arc",
    5: "lean",
    6: "efi-x86",
    7: "efi-x64",
    8: "efi-xscale",
    9: "efi-bc",
    10: "efi-arm32",
    11: "efi-arm64",
    12: "ppc-of",
    13: "ppc-epapr",
    14: "ppc-opal",
    15: "efi-x86-http",
    16: "efi-x64-http",
    17: "efi-bc-http",
    18: "efi-arm32-http",
    19: "efi-arm64-http",
    20: "bios-http",
    21: "uboot-arm32",
    22: "uboot-arm64",
    23: "uboot-arm32-http",
    24: "uboot-arm64-http",
    25: "efi-riscv32",
    26: "efi-riscv32-http",
    27: "efi-riscv64",
    28: "efi-riscv64-http",
    29: "efi-riscv128",
    30: "efi-riscv128-http",
    31: "s390-basic",
    32: "s390-extended",
    33: "efi-mips32",
    34: "efi-mips64",
    35: "efi-sunway32",
    36: "efi-sunway64",
    37: "efi-loongarch32",
    38: "efi-loongarch32-http",
    39: "efi-loongarch64",
    40: "efi-loongarch64-http",
    41: "rpi",
}
BIOS = 0
#: The architectures of firmware that is no UEFI, and that knows Intel's PXE only.
OLD_FIRMWARE = range(6)
#: Firmware that boots by HTTP, and is never answered: castd has no HTTP.
HTTP_BOOT = frozenset(number for number, word in ARCHITECTURES.items() if word.endswith("-http"))

#: The features that iPXE lists in its option 175, by sub-option.
IPXE_FEATURES: Mapping[str, int] = {
    "pxe-extensions": 16,
    "iscsi": 17,
    "aoe": 18,
    "http": 19,
    "https": 20,
    "tftp": 21,
    "ftp": 22,
    "dns": 23,
    "bzimage": 24,
    "multiboot": 25,
    "slam": 26,
    "srp": 27,
    "nbi": 32,
    "pxe": 33,
    "elf": 34,
    "comboot": 35,
    "efi": 36,
    "fcoe": 37,
    "vlan": 38,
    "menu": 39,
    "sdi": 40,
    "nfs": 41,
}
IPXE_CLASS = b"iPXE"


def architectureName(number: int) -> str:
    """Return the word for an architecture, C{efi-x64} for 7; its number as text if it has none."""
    return ARCHITECTURES.get(number, str(number))


# Options that hold options.


def parseSuboptions(value: bytes) -> dict[int, bytes]:
    """
    Parse an option that holds options of its own (43, 175): code, length, value; 0 is padding, 255 the end.

    @return: values by code; of a code that comes twice, the last.
    @raise WireError: a length runs beyond the option.
    """
    found: dict[int, bytes] = {}
    at = 0
    while at < len(value) and value[at] != 255:
        if value[at] == 0:
            at += 1
            continue
        end = at + 2 + value[at + 1] if at + 1 < len(value) else len(value) + 1
        if end > len(value):
            raise WireError(f"sub-option {value[at]} runs beyond its option")
        found[value[at]] = value[at + 2 : end]
        at = end
    return found


def buildSuboptions(suboptions: Iterable[tuple[int, bytes]]) -> bytes:
    """Build the value of an option that holds options, its end included; each value has at most 255 octets."""
    return b"".join(bytes([code, len(value)]) + value for code, value in suboptions) + b"\xff"


def mtftpSuboptions(group: tuple[str, int], server: int, listen: int, silence: int) -> list[tuple[int, bytes]]:
    """
    Return sub-options 1 to 5 of option 43, which make a boot ROM use MTFTP.

    Ports have their low octet first, as Intel's EFI client and Wireshark read them.  Clients use MTFTP only if all five
    sub-options are there, and none is 0; today's EDK II drops an offer that has them without sub-option 6.

    @param group: address and port that the file is sent to, and that the client listens at.
    @param server: the port that requests go to.
    @param listen: seconds that a client listens for a transfer before it asks, 1 to 255.
    @param silence: seconds without a packet until the client asks again, 1 to 255.
    """
    values = (
        IPv4Address(group[0]).packed,
        group[1].to_bytes(2, "little"),
        server.to_bytes(2, "little"),
        bytes([listen]),
        bytes([silence]),
    )
    return list(enumerate(values, 1))


def menuSuboptions(
    server: IPv4Address, items: Iterable[tuple[bytes, str]], seconds: int, prompt: str, group: IPv4Address | None
) -> list[tuple[int, bytes]]:
    """
    Return the sub-options of option 43 that show a menu, all of whose items one server has.

    Without a group the client asks that server alone: broadcast discovery is heard by the DHCP server too, whose ACK
    EDK II takes for the boot server's.  Each type is in the list of servers, since EDK II reads beyond the end of a
    list that lacks it.

    @param items: type (2 octets) and text (ASCII, at most 255) of each.
    @param seconds: until the first item is taken, or L{AT_ONCE} or L{FOR_EVER}.
    @param group: where servers are discovered by multicast; L{None}: nowhere.
    """
    shown = list(items)
    control = NO_BROADCAST | ONLY_LISTED | (NO_MULTICAST if group is None else 0)
    servers = dict.fromkeys(kind for kind, _ in shown)
    texts = ((kind, text.encode("ascii", "replace")) for kind, text in shown)
    found = [(DISCOVERY_CONTROL, bytes([control]))]
    if group is not None:
        found.append((DISCOVERY_GROUP, group.packed))
    found.append((BOOT_SERVERS, b"".join(kind + b"\x01" + server.packed for kind in servers)))
    found.append((BOOT_MENU, b"".join(kind + bytes([len(text)]) + text for kind, text in texts)))
    found.append((MENU_PROMPT, bytes([seconds]) + prompt.encode("ascii", "replace")))
    return found


def bootItem(value: bytes) -> bytes | None:
    """
    Read what a client has chosen: sub-option 71 of option 43, type (2 octets) and layer (2 octets).

    @param value: option 43 of a request.
    @return: the four octets as they came, since iPXE and EDK II differ in how they read them; L{None}: nothing was
        chosen.
    @raise WireError: the option cannot be read, or the item is not four octets.
    """
    item = parseSuboptions(value).get(BOOT_ITEM)
    if item is not None and len(item) != 4:
        raise WireError(f"a boot item of {len(item)} octets")
    return item


# What tells who the client is.


def architectures(option93: bytes, vendorClass: bytes) -> tuple[int, ...]:
    """
    Return the architectures that a client names, the best first.

    @param option93: a list of 16-bit numbers (RFC 4578 section 2.1); empty or of odd length: it is not used.
    @param vendorClass: option 60, which says it too: C{PXEClient:Arch:00007:UNDI:003000}.
    @return: C{()}: neither says it.
    """
    if option93 and len(option93) % 2 == 0:
        return tuple(int.from_bytes(option93[at : at + 2], "big") for at in range(0, len(option93), 2))
    told = re.match(rb"PXEClient:Arch:([0-9]{5})", vendorClass)
    return (int(told[1]),) if told else ()


def machineUuid(option97: bytes) -> str | None:
    """
    Read the UUID of a machine: type 0 and 16 octets, whose first three fields have their low octet first.

    @return: L{None}: the option is of another form, or has zeros only, as EDK II sends where the firmware knows none.
    """
    if len(option97) != 17 or option97[0] or not any(option97):
        return None
    octets = option97[1:]
    fields = (octets[3::-1], octets[5:3:-1], octets[7:5:-1], octets[8:10], octets[10:])
    return "-".join(field.hex() for field in fields)


def userClasses(option77: bytes) -> tuple[bytes, ...]:
    """
    Read the user classes of a client: counted strings (RFC 3004), or one bare text, as iPXE sends.

    A value that can be read as counted strings to its last octet is taken as such.
    """
    found = []
    at = 0
    while at < len(option77):
        end = at + 1 + option77[at]
        if end == at + 1 or end > len(option77):
            return (option77,)
        found.append(option77[at + 1 : end])
        at = end
    return tuple(found)


def isIpxe(options: Mapping[int, bytes]) -> bool:
    """Return whether a request is iPXE's: its user class says so, or it has iPXE's own option 175 (as has gPXE)."""
    return 175 in options or IPXE_CLASS in userClasses(options.get(77, b""))


def ipxeFeatures(option175: bytes) -> frozenset[int]:
    """Return the features that iPXE lists, as values of L{IPXE_FEATURES}; none if the option cannot be read."""
    try:
        suboptions = parseSuboptions(option175)
    except WireError:
        return frozenset()
    return frozenset(code for code in IPXE_FEATURES.values() if any(suboptions.get(code, b"")))
