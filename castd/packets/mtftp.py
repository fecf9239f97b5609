"""
Define the numbers of MTFTP, the multicast TFTP of Intel's PXE; its packets are those of L{castd.packets.tftp}.
"""

from __future__ import annotations

from typing import Final

#: The port that requests come to, where nothing says another.
PORT: Final = 1759
#: Octets of a block: the protocol cannot negotiate another size.
BLKSIZE: Final = 512
#: The most blocks of a file: block numbers have 16 bits and begin with 1, and only some clients count beyond the last.
MOST_BLOCKS: Final = 0xFFFF
#: The only group and port that iPXE listens to, whatever DHCP says.
IPXE_GROUP: Final = ("239.255.1.1", 3001)
