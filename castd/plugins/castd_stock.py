"""
What comes with castd.  Nothing is imported until a service file names it.
"""

from castd.maker import ContentSourceMaker, TransportMaker

tftp = TransportMaker("tftp", "castd.dialects.tftp", "TFTP to one receiver at a time, with all its options; uploads")
directory = ContentSourceMaker("directory", "castd.directory", "Files beneath a directory")
