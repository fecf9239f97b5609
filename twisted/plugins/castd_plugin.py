"""
Announces the subcommand ``twistd castd``.

There is no C{__init__.py} beside this file, and there must never be one: the folder adds to Twisted's own
C{twisted.plugins}, it does not replace it.
"""

from twisted.application.service import ServiceMaker

castd = ServiceMaker(
    "castd",
    "castd.tap",
    "Deliver boot files over datagrams, to one machine or a whole hall",
    "castd",
)
