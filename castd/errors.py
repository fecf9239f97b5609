"""
The exceptions of castd, by whose fault they are.

L{ConfigError} is the operator's, L{WireError} the peer's, L{Refused} our answer to a readable request.  Anything else
that is raised while a datagram is served is a bug: it is logged with its traceback and ends one cast, never the server.
"""

from __future__ import annotations


class CastdError(Exception):
    """The base class of all of castd's own exceptions."""


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
    The service file asks for what this machine does not have, or not now: an address, a permission, a file.
    """


class WireError(CastdError):
    """A datagram cannot be read.  It is counted, logged at debug level and not answered."""


class UnknownPeer(CastdError):
    """A readable datagram at a transfer's own port is from a peer that has no part in it (TFTP answers ERROR 5)."""


class Declined(CastdError):
    """
    This dialect leaves the request to the next one at the port.  The peer is not told.

    @ivar reason: a short word for logs and counters, such as C{"pool-empty"}.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Elsewhere(Declined):
    """
    The request belongs to a group of the process that this one is taking over from.

    @ivar group: its address and port.
    """

    def __init__(self, group: tuple[str, int]) -> None:
        super().__init__("group lives in the process before")
        self.group = group


class Crowded(CastdError):
    """A limit is reached.  This is counted, and not answered: the client repeats its request (RFC 1350 clients do)."""


class Refused(CastdError):
    """
    A readable request is denied, or an upload is.

    The dialect tells the peer so, or is silent where its protocol has no word for it.

    @cvar code: the TFTP error code (RFC 1350 section 5, RFC 2347).
    @ivar text: what the peer is told: printable ASCII, never a path of the server.  What the log says, C{str(error)},
        may say more.
    """

    code = 0
    text = "refused"

    def __init__(self, text: str = "", why: str = "") -> None:
        """
        @param text: what the peer is told; C{""}: the text of the class.
        @param why: what the log says; C{""}: the same.
        """
        super().__init__(why or text or self.text)
        self.text = text or self.text


class NotFound(Refused):
    """The file does not exist."""

    code = 1
    text = "File not found"


class Forbidden(Refused):
    """The name leads out of the root or to no regular file, or the client may not have it, or uploads are off."""

    code = 2
    text = "Access violation"


class Full(Refused):
    """No space is left, or an upload is larger than it may be."""

    code = 3
    text = "Disk full or allocation exceeded"


class Unsupported(Refused):
    """The request is malformed, or asks for a mode that is not served."""

    code = 4
    text = "Illegal TFTP operation"


class UnknownTid(Refused):
    """A packet has a foreign transfer id (RFC 1350 section 4)."""

    code = 5
    text = "Unknown transfer ID"


class Exists(Refused):
    """An upload has the name of an existing file, and may not replace it."""

    code = 6
    text = "File already exists"


class Busy(Refused):
    """The request cannot be served now, but may be later."""

    text = "Busy, try again later"


class ContentChanged(Refused):
    """The file shrank or could not be read while it was being sent."""

    text = "File changed while it was being sent"
