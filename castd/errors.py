"""
What can go wrong, and whose fault it is.

L{ConfigError} is the operator's, L{WireError} the peer's, L{Refused} our answer to a readable request.  Anything else
that is raised while a datagram is served is a bug: it is logged with its traceback and ends one cast, never the server.
"""

from __future__ import annotations


class CastdError(Exception):
    """The root of all of castd's own errors."""


class ConfigError(CastdError):
    """
    The service file cannot be used.

    @ivar faults: every fault that was found, each as C{file:line: path: what is wrong}.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Unavailable(ConfigError):
    """
    What the service file asks for cannot be had on this machine, or not now: an address, a permission, a file.
    """


class WireError(CastdError):
    """A datagram that says nothing readable: counted, shown at debug level, survived."""


class UnknownPeer(CastdError):
    """A readable datagram at a transfer's own port from a peer that has no part in it (TFTP answers ERROR 5)."""


class Declined(CastdError):
    """
    This dialect would rather not serve the request; the next one at the port is asked.  Never seen by a peer.

    @ivar reason: a short word for logs and counters, such as C{"pool-empty"}.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Elsewhere(Declined):
    """
    The group that the request belongs to lives in the process that this one is taking over from.

    @ivar group: its address and port.
    """

    def __init__(self, group: tuple[str, int]) -> None:
        super().__init__("group lives in the process before")
        self.group = group


class Crowded(CastdError):
    """A limit is reached: no answer goes out, the client asks again by itself (RFC 1350 clients all do).  Counted."""


class Refused(CastdError):
    """
    Our answer to a readable request; the dialect puts it on the wire, or is silent where its protocol has no word for
    it.

    @cvar code: the TFTP error code (RFC 1350 section 5, RFC 2347).
    @ivar text: what the peer is told: printable ASCII, never a path of the server.
    """

    code = 0
    text = "refused"

    def __init__(self, text: str = "", why: str = "") -> None:
        super().__init__(why or text or self.text)
        self.text = text or self.text


class NotFound(Refused):
    """No such file."""

    code = 1
    text = "File not found"


class Forbidden(Refused):
    """Outside the root, not a regular file, not allowed for this client, or writes are off."""

    code = 2
    text = "Access violation"


class Full(Refused):
    """No space, or an upload above its limit."""

    code = 3
    text = "Disk full or allocation exceeded"


class Unsupported(Refused):
    """A request that is malformed or asks for a mode that is not served."""

    code = 4
    text = "Illegal TFTP operation"


class UnknownTid(Refused):
    """A packet of a foreign transfer id (RFC 1350 section 4)."""

    code = 5
    text = "Unknown transfer ID"


class Exists(Refused):
    """An upload to a name that exists, under a policy that creates only."""

    code = 6
    text = "File already exists"


class Busy(Refused):
    """Not now."""

    text = "Busy, try again later"


class ContentChanged(Refused):
    """The file shrank or could not be read while it was being sent."""

    text = "File changed while it was being sent"
