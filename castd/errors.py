"""
Defines the exceptions of castd, by the party at fault.

L{ConfigError} and L{WrongQuestion} are faults of the operator, L{WireError} is a fault of the peer, L{Refused} the
server's refusal of a readable request.  Every other exception while a datagram is served is a bug: it is logged with
its traceback and ends one cast, never the server.
"""

from __future__ import annotations

from typing import Final

#: The reason of a refusal in the log, where a request names no file.
NO_NAME: Final = "the request has no file name"
#: The most faults of a file that are logged and told while castd serves: each is a line of the log, for which all
#: transfers wait.
MOST_FAULTS: Final = 100


def reasonOf(error: BaseException | None) -> str:
    """
    Return why a call of the system has failed, without the number of the error: C{Permission denied}.

    @param error: mostly an C{OSError}, or Twisted's C{CannotListenError}, which has one inside; of any other error the
        reason is its text.
    """
    cause: object = getattr(error, "socketError", error)
    return getattr(cause, "strerror", None) or str(cause)


def firstFaults(faults: tuple[str, ...]) -> tuple[str, ...]:
    """
    Return the first L{MOST_FAULTS} of these, and how many more there are, unless that is one.  So the result is
    returned as it is if another process cuts it again.
    """
    if len(faults) <= MOST_FAULTS + 1:
        return faults
    return (*faults[:MOST_FAULTS], f"{len(faults) - MOST_FAULTS} more faults: castd check shows all of them")


class CastdError(Exception):
    """The base class of all exceptions of castd."""


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
    The service file asks for a resource that this machine lacks, perhaps only now: an address, a permission, a file.
    """


class WireError(CastdError):
    """A datagram cannot be read.  It is counted, logged at debug level and not answered."""


class UnknownPeer(CastdError):
    """A readable datagram at a transfer's own port is from a peer that has no part in it (TFTP answers ERROR 5)."""


class Declined(CastdError):
    """
    This dialect leaves the request to the next dialect at the port.  The peer gets no answer for it.

    @ivar reason: a short word for logs and counters, such as C{"pool-empty"}.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Elsewhere(Declined):
    """
    The request needs a group that the predecessor, during an upgrade, still sends to.

    @ivar group: address and port of the group.
    """

    def __init__(self, group: tuple[str, int]) -> None:
        super().__init__("group lives in the process before")
        self.group = group


class Refused(CastdError):
    """
    The server refuses a readable request, or ends an upload.

    The dialect sends the peer an error, or nothing if its protocol has no datagram for it.

    @cvar code: the TFTP error code (RFC 1350 section 5, RFC 2347).
    @ivar text: the text that is sent to the peer: printable ASCII, never a path of the server.  The text of the log,
        C{str(error)}, may say more.
    """

    code = 0
    text = "refused"

    def __init__(self, text: str = "", why: str = "") -> None:
        """
        @param text: the text that is sent to the peer; C{""}: the text of the class.
        @param why: the text of the log; C{""}: the same text.
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


class Denied(Forbidden):
    """
    The access rules refuse the request.

    @ivar rule: C{file:line} of the rule; C{""}: no rule allows it, or its place is not known.
    """

    def __init__(self, why: str, rule: str = "") -> None:
        super().__init__(why=why)
        self.rule = rule


class Full(Refused):
    """No space is left on the disk, or an upload is larger than allowed."""

    code = 3
    text = "Disk full or allocation exceeded"


class Unsupported(Refused):
    """The request is malformed, or asks for a mode that is not supported."""

    code = 4
    text = "Illegal TFTP operation"


class UnknownTid(Refused):
    """A packet has a foreign transfer id (RFC 1350 section 4)."""

    code = 5
    text = "Unknown transfer ID"


class Exists(Refused):
    """The name of an upload belongs to an existing file, which the upload may not replace."""

    code = 6
    text = "File already exists"


class Busy(Refused):
    """The request cannot be served now; it may be later."""

    text = "Busy, try again later"


class Unanswered(Busy):
    """The request is dropped without an answer, since there are too many or the disk is too slow; clients ask again."""


class ContentChanged(Refused):
    """The file has become shorter, was written anew in its place, or could not be read, while it was being sent."""

    text = "File changed while it was being sent"


class WrongQuestion(ValueError):
    """A question at the control socket cannot be answered; the text, for who has asked it, says why."""
