"""
Announces what comes with castd.  Nothing of it is imported until a service file names it.
"""

from castd.config.plugin import ContentSourceMaker, ServiceMaker, TransportMaker

tftp = TransportMaker("tftp", "castd.dialects.tftp", "TFTP to one receiver at a time, with all its options; uploads")
multicast = TransportMaker("multicast", "castd.dialects.multicast", "RFC 2090: one master acknowledges, all listen")
sbroadcast = TransportMaker(
    "sbroadcast", "castd.dialects.sbroadcast", "IBM subnet broadcast: as multicast, by broadcast"
)
mtftp = TransportMaker("mtftp", "castd.dialects.mtftp", "MTFTP of PXE boot ROMs: one acknowledges, all listen")
slam = TransportMaker("slam", "castd.dialects.slam", "Etherboot SLAM: one file to many, who list what they lack")
proxydhcp = ServiceMaker(
    "proxydhcp",
    "castd.proxydhcp.service",
    "Tells machines what to boot, beside any DHCP server, and hands out no address",
)
directory = ContentSourceMaker("directory", "castd.files.directory", "Files beneath a directory")
template = ContentSourceMaker("template", "castd.templates.source", "A file that is made for each machine")
