"""
Build the DHCP option that tells a boot ROM to use MTFTP: option 43 with PXE's sub-options 1 to 5.
"""

from __future__ import annotations

from ipaddress import IPv4Address

VENDOR_OPTION = 43


def option43(group: tuple[str, int], server: int, listen: int, silence: int) -> bytes:
    """
    Build option 43 for MTFTP, its code and length included.

    Ports have their low octet first, as Intel's EFI client and Wireshark read them; a DHCP server that is given them as
    "unsigned integer 16" swaps them.  Clients use MTFTP only if all five sub-options are there, and none is 0.

    @param group: address and port that the file is sent to, and that the client listens at.
    @param server: the port that requests go to.
    @param listen: seconds that a client listens for a transfer before it asks, 1 to 255.
    @param silence: seconds without a packet until the client asks again, 1 to 255.
    """
    address, port = group
    values = (
        IPv4Address(address).packed,
        port.to_bytes(2, "little"),
        server.to_bytes(2, "little"),
        bytes([listen]),
        bytes([silence]),
    )
    suboptions = b"".join(bytes([code, len(value)]) + value for code, value in enumerate(values, 1)) + b"\xff"
    return bytes([VENDOR_OPTION, len(suboptions)]) + suboptions
