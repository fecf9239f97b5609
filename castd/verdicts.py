"""
Tells from what was seen of a transfer or a request why it failed, in plain words, and what to do.

L{RULES} is the whole table: the first row whose condition holds for the L{Facts} is the verdict.  C{docs/verdicts.md}
is generated from it.  The table is pure: whoever has the facts can ask it, before or after the event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from castd import outcomes
from castd.errors import NO_NAME

#: What the facts are about: a transfer that has ended, a request that was refused with an ERROR, one that was not
#: answered, a receiver that went on by unicast, a machine that asked for a size and did not come back; and of
#: C{proxydhcp} a machine that was not told what to boot, and one that was told and did not come.
Kind = Literal["received", "refused", "crowded", "moved", "size-only", "unanswered", "unfetched"]

#: The most characters of a field that a client has written, or that lists paths.
LONGEST = 256
#: So many requests for the same block, or for the same window, show that it does not arrive.
REPEATED = 3
#: How often the first block was sent before it is taken for too large.
OVERSIZE_TIMES = 3
#: The last block numbers of 16 bits: a client that asks for one of these in vain cannot count on.
ROLLOVER: Final = range(65534, 65537)
#: So often a machine has fetched a file before it seems to start it in vain.
AGAIN = 3

#: What IPv6's least MTU of 1280 octets carries, and what most tunnels over Ethernet carry of IPv4, less the headers of
#: IP, UDP and TFTP.  Octets.
LEAST_IPV6_BLKSIZE, COMMON_TUNNEL_BLKSIZE = 1228, 1368
#: What every way carries, and every client without options gets.  Octets.
LEAST_BLKSIZE = 512


class Facts(NamedTuple):
    """
    Holds what was seen of a transfer or request.  What is not known keeps its default.  (A tuple: one is made for each
    transfer, in a tenth of the time.)

    @ivar kind: what it is about.
    @ivar host: the address of the machine.
    @ivar name: the name of the file as asked for.
    @ivar write: it is an upload.
    @ivar outcome: of a transfer, a word of L{castd.outcomes}.
    @ivar code: of a refusal, TFTP's error code.
    @ivar why: of a refusal, of a request that was not answered, and of a transfer that the server has ended: the reason
        in the log.
    @ivar limit: the key of the limit for which there was no answer, or for which it had to leave, or C{LimitNOFILE}.
    @ivar rule: C{file:line} of the access rule that refused.
    @ivar ruled: the access rules refused, by a rule or for want of one.
    @ivar source: C{file:line} of the source that C{found} lies in.
    @ivar found: the name of a file that was probably meant.
    @ivar near: in what C{found} differs: C{case}, C{prefix}, C{spaces}; or C{network}: it is for other clients.
    @ivar heard: it has sent something since its request.
    @ivar singlePort: the transfer uses the port that was asked.
    @ivar group: it was a receiver of a group.
    @ivar deaf: it was shown to receive nothing of its group.
    @ivar lacks: the number, counted from 0, of the first block that it asked for and did not get.
    @ivar sent: how often that block was sent.
    @ivar repeated: how often it has asked for that block again.
    @ivar blocks: how many blocks the file has.
    @ivar octets: octets of a full block of this file on the wire.
    @ivar clientCode, clientText: the ERROR of the client.
    @ivar unsent: why this machine could not send what it has tried to send last; C{""}: it was sent.
    @ivar times, minutes: how often it has fetched this file whole, and within how many minutes.
    @ivar reason: why C{proxydhcp} does not answer, see L{castd.proxydhcp.requests.REASONS}.
    @ivar arch: the word for the architecture of its firmware.
    @ivar server: the address of another server that was heard to tell machines what to boot.
    @ivar proxy: that server hands out no address.
    @ivar form: the other form in which it can be told what to boot, as C{answer:} calls it.
    """

    kind: Kind
    host: str = ""
    name: str = ""
    write: bool = False
    outcome: str = ""
    code: int | None = None
    why: str = ""
    limit: str = ""
    rule: str = ""
    ruled: bool = False
    source: str = ""
    found: str = ""
    near: str = ""
    heard: bool = True
    singlePort: bool = False
    group: bool = False
    deaf: bool = False
    lacks: int | None = None
    sent: int = 0
    repeated: int = 0
    blocks: int | None = None
    octets: int = 0
    clientCode: int | None = None
    clientText: str = ""
    unsent: str = ""
    times: int = 0
    minutes: int = 0
    reason: str = ""
    arch: str = ""
    server: str = ""
    proxy: bool = False
    form: str = ""

    @property
    def smaller(self) -> int:
        """The block size to try where blocks of the present size do not arrive."""
        usual = LEAST_IPV6_BLKSIZE if ":" in self.host else COMMON_TUNNEL_BLKSIZE
        return usual if self.octets > usual else LEAST_BLKSIZE

    @property
    def plainWay(self) -> bool:
        """Whether no other port of the server would help the answer through a firewall."""
        return self.singlePort or self.group

    @property
    def tooLarge(self) -> bool:
        """
        Whether it has answered what is small, and the first block, which is not, was sent to it in vain.  A machine
        whose port is closed says so of a block that has arrived, unless blocks are sent to a group.  A member of a
        group that is unconfirmed may have received all others, and left with the first one.
        """
        arrives = self.outcome == (outcomes.UNCONFIRMED if self.group else outcomes.CLOSED)
        inVain = self.heard and self.lacks == 0 and self.sent >= OVERSIZE_TIMES and not arrives
        return inVain and self.octets > LEAST_BLKSIZE


class Verdict(NamedTuple):
    """
    Says why something failed.

    @ivar id: a word that stays the same.
    @ivar cause: why, as a part of a sentence.
    @ivar cure: what to do.
    """

    id: str
    cause: str
    cure: str


@dataclass(frozen=True, slots=True)
class VerdictRule:
    """
    One row of the table.

    @ivar seen: the condition in words, for the page.
    @ivar holds: the condition.
    @ivar cause, cure: see L{Verdict}; fields of L{Facts} stand in braces.
    @ivar told: C{False}: the line of the text log says as much already, so that it is not repeated there.
    """

    id: str
    seen: str
    holds: Callable[[Facts], bool]
    cause: str
    cure: str
    told: bool = True


def _ended(*words: str) -> Callable[[Facts], bool]:
    return lambda facts: facts.kind == "received" and facts.outcome in words


def _refused(code: int) -> Callable[[Facts], bool]:
    return lambda facts: facts.kind == "refused" and facts.code == code


def _near(kind: str) -> Callable[[Facts], bool]:
    return lambda facts: facts.kind == "refused" and facts.near == kind


def _untold(reason: str) -> Callable[[Facts], bool]:
    return lambda facts: facts.kind == "unanswered" and facts.reason == reason and bool(facts.name or facts.arch)


def _wanting(facts: Facts) -> bool:
    return facts.kind == "received" and facts.outcome in outcomes.WANTING


_FIREWALL = "single-port: true; or ports: with a range that the firewall lets through"
_SNOOPING = "a switch with IGMP snooping needs a querier; for clients that send no IGMP, as iPXE, flood the group"

#: The table.
RULES: Final = (
    VerdictRule(
        "limit",
        "a request that a limit leaves without an answer",
        lambda facts: bool(facts.limit) and facts.kind != "received",
        "{limit} is reached",
        "raise it, if so many are to be served; clients ask again by themselves",
        told=False,
    ),
    VerdictRule(
        "displaced",
        "nothing but its request was heard for a moment, and its place was needed, since a limit is reached",
        lambda facts: bool(facts.limit) and _ended(outcomes.SILENT)(facts),
        "it had sent nothing but its request when its place was needed: {limit} is reached",
        "raise it, if so many are to be served; the machine asks again by itself",
    ),
    VerdictRule(
        "network",
        "the file is not found, but is in a directory for other clients",
        _near("network"),
        "{source} has it, for clients of other networks",
        "add the client's network to networks: there",
    ),
    VerdictRule(
        "case",
        "the file is not found, but one whose name differs in case",
        _near("case"),
        "there is {found}, which differs in case",
        "ask for that name, or set ignore-case: true for the directory",
    ),
    VerdictRule(
        "prefix",
        "the file is not found, but beneath another leading directory",
        _near("prefix"),
        "there is {found}",
        "ask for that name, or use strip:, under: or rewrite: of the directory",
    ),
    VerdictRule(
        "spaces",
        "the file is not found, but one of this name without the spaces or quotes around it",
        _near("spaces"),
        "there is {found}, and the machine asks with spaces or quotes around the name",
        "take them out of the boot file's name in the DHCP server, or in the menu",
    ),
    VerdictRule(
        "no-place",
        "an upload whose directory is not there, or whose file is not and has to be",
        lambda facts: facts.write and _refused(1)(facts),
        "there is no place for it",
        "make the directory, or set make-directories: true; with policy: existing, make the file",
    ),
    VerdictRule(
        "missing",
        "the file is not found",
        _refused(1),
        "no source has this file",
        "nothing, if the machine asks for another name next, as boot loaders do; else put the file there",
        told=False,
    ),
    VerdictRule(
        "rule",
        "an access rule denies it",
        lambda facts: facts.kind == "refused" and bool(facts.rule),
        "the access rule at {rule} denies it",
        "change that rule, or put one before it that allows this",
        told=False,
    ),
    VerdictRule(
        "no-rule",
        "no access rule allows it",
        lambda facts: facts.kind == "refused" and facts.ruled,
        "no access rule allows it",
        "add one to access:",
        told=False,
    ),
    VerdictRule(
        "read-only",
        "an upload to a file system that cannot be written to",
        lambda facts: facts.kind == "refused" and "read-only file system" in facts.why.lower(),
        "the file system of the uploads is read-only",
        "mount it for writing; after a fault of the disk the kernel mounts it read-only by itself (dmesg)",
    ),
    VerdictRule(
        "full",
        "an upload that finds no room, or is larger than allowed",
        _refused(3),
        "there is no room for this upload: {why}",
        "make room on the disk, or see keep-free: and max-size: of uploads:",
        told=False,
    ),
    VerdictRule(
        "exists",
        "an upload of a name that exists",
        _refused(6),
        "the file exists, and uploads: does not let it be replaced",
        "policy: overwrite, or remove the file",
        told=False,
    ),
    VerdictRule(
        "no-name",
        "the request names no file",
        lambda facts: _refused(4)(facts) and NO_NAME in facts.why,
        "it does not know what to boot",
        "does the DHCP server give a boot file (option 67), and the boot loader's configuration a name?",
    ),
    VerdictRule(
        "malformed",
        "the request cannot be read, or asks for what TFTP does not have",
        _refused(4),
        "{why}",
        "the program that asks: RFC 1350 has the form of a request",
        told=False,
    ),
    VerdictRule(
        "forbidden",
        "the file is there, or the place, and may not be used",
        _refused(2),
        "{why}",
        "permissions of the file and its directories, for the user that castd runs as; links: of the directory; for an "
        "upload, what uploads: and access: say of its name and its client",
        told=False,
    ),
    VerdictRule(
        "unavailable",
        "the request is refused for any other reason",
        lambda facts: facts.kind == "refused",
        "{why}",
        "the log of the minutes before",
        told=False,
    ),
    VerdictRule(
        "unanswered",
        "a request that is left without an answer for another reason",
        lambda facts: facts.kind == "crowded" and not facts.unsent,
        "{why}",
        "ports: has too few numbers, the process too few descriptors, the disk is too slow, or too much is asked",
        told=False,
    ),
    VerdictRule(
        "no-multicast",
        "it acknowledges what is sent to it alone, and nothing of the group",
        lambda facts: (facts.kind == "moved" and facts.deaf) or facts.outcome == outcomes.UNHEARD,
        "it hears nothing of the group",
        _SNOOPING,
    ),
    VerdictRule(
        "mtu",
        "it answers small datagrams, and no first block, which is larger",
        lambda facts: facts.tooLarge and (_wanting(facts) or _ended(outcomes.UNCONFIRMED)(facts)),
        "it answers small datagrams, but no block of {octets} octets, sent {sent} times: they do not seem to arrive",
        "caps: [{{clients: {host}, blksize: {smaller}}}]",
    ),
    VerdictRule(
        "rollover",
        "it stops where the block number of 16 bits begins anew",
        lambda facts: _wanting(facts) and facts.lacks in ROLLOVER and (facts.blocks or 0) > ROLLOVER.start,
        "it stops where the block number rolls over, after 65535: it cannot count on",
        "a larger blksize, so that the file has fewer blocks; or another boot loader",
    ),
    VerdictRule(
        "unsent",
        "its request was left without an answer, it fell silent, or its port was reported closed; and the server's "
        "machine could not send what was for it",
        lambda facts: (
            bool(facts.unsent) and (facts.kind == "crowded" or _ended(outcomes.SILENT, outcomes.CLOSED)(facts))
        ),
        "this server could not send to it: {unsent}",
        "castd doctor, ip address, ip route, nft list ruleset: the server's own address, route or firewall",
    ),
    VerdictRule(
        "rejected",
        "nothing but its request was heard, and its port was reported closed; the answer came from the port that was "
        "asked, or went to a group",
        lambda facts: _ended(outcomes.CLOSED)(facts) and not facts.heard and facts.plainWay,
        "its port is closed: its firewall rejects the answer, or its program has ended",
        "the firewall and the console of the machine",
    ),
    VerdictRule(
        "port-closed",
        "nothing but its request was heard, and its port was reported closed",
        lambda facts: _ended(outcomes.CLOSED)(facts) and not facts.heard,
        "its port was closed at once: a firewall rejects the answer, a NAT does not know it, or the program ended",
        _FIREWALL,
    ),
    VerdictRule(
        "blocked",
        "nothing but its request was heard; the answer came from the port that was asked, or was for a group",
        lambda facts: _ended(outcomes.SILENT)(facts) and not facts.heard and facts.plainWay,
        "nothing but its request was heard: the answer does not arrive",
        "a firewall before the machine or on it, a route back to it; or it was switched off",
    ),
    VerdictRule(
        "unreachable",
        "nothing but its request was heard",
        lambda facts: _ended(outcomes.SILENT)(facts) and not facts.heard,
        "nothing but its request was heard: a NAT or a firewall drops the answer, or what is sent to its port",
        _FIREWALL,
    ),
    VerdictRule(
        "hears-nothing",
        "it asks for the same block again and again, and that was sent each time",
        lambda facts: _wanting(facts) and facts.repeated >= REPEATED,
        "it repeats one acknowledgement {repeated} times: it hears nothing from us any more",
        "a firewall on the way that forgets the transfer, or drops what is large; the cable of the machine",
    ),
    VerdictRule(
        "client-error",
        "it has sent an ERROR",
        _ended(outcomes.ABORTED),
        "its own ERROR {clientCode}: {clientText}",
        "the machine's console; an option that it asks for and cannot bear goes into without:",
    ),
    VerdictRule(
        "silent",
        "it has answered, and then no more",
        _ended(outcomes.SILENT, outcomes.DEAF),
        "it answered, and then no more",
        "it was switched off or has crashed; with many repetitions before: loss (windowsize: 8 in caps:)",
    ),
    VerdictRule(
        "ended",
        "it has answered, and then its port was closed",
        _ended(outcomes.CLOSED),
        "it closed its port before the end: its program has ended, or it has restarted",
        "the machine's console",
    ),
    VerdictRule(
        "restarted",
        "it asked anew before the transfer had ended",
        _ended(outcomes.REPLACED),
        "it asked anew before the end: it has restarted, or had given up",
        "its next transfer tells more; the machine's console",
    ),
    VerdictRule(
        "changed",
        "the file changed, or could not be read, while it was being sent",
        _ended(outcomes.CHANGED),
        "the file could not be sent to its end as it was: {why}",
        "put new files in place by renaming, never by writing into the old one; if it cannot be read, see to its disk",
    ),
    VerdictRule(
        "stopped",
        "castd was stopped",
        _ended(outcomes.STOPPED),
        "castd was stopped, and did not wait longer for this transfer",
        "castd upgrade lets transfers end; limits.drain is how long a stop waits",
        told=False,
    ),
    VerdictRule(
        "fault",
        "castd or a plugin failed",
        _ended(outcomes.FAILED),
        "a fault of castd or of a plugin",
        "report the traceback that is in the log",
        told=False,
    ),
    VerdictRule(
        "size-only",
        "it asked for the size of the file, and did not ask for the file within half a minute",
        lambda facts: facts.kind == "size-only",
        "UEFI does so with a file that it will not load: too large for its memory, or not for this firmware",
        "is the file for its architecture, and signed if Secure Boot is on?",
    ),
    VerdictRule(
        "again",
        "it has fetched the same file at least three times within a quarter of an hour, one after the other",
        lambda facts: _ended(outcomes.DONE)(facts) and facts.times >= AGAIN and not facts.write,
        "it has fetched this file {times} times in {minutes} min: it starts it, and fails later",
        "the machine's console after this file; nothing, if somebody tests or watches the server",
    ),
    VerdictRule(
        "boot-missing",
        "proxydhcp does not tell it what to boot: the file is not there",
        _untold("missing"),
        "the file that a rule tells it, {name}, is not there",
        "put it there, or correct boot: of the rule",
    ),
    VerdictRule(
        "boot-denied",
        "proxydhcp does not tell it what to boot: the access rules deny the file",
        _untold("access"),
        "the access rules do not give it the file of its rule, {name}",
        "allow its network to read it, in access:",
    ),
    VerdictRule(
        "boot-rule",
        "proxydhcp does not tell it what to boot: no rule is for it",
        _untold("rule"),
        "{why}",
        "correct that rule of proxydhcp, or add one; castd pxe says the same of a service file",
        told=False,
    ),
    VerdictRule(
        "boot-network",
        "proxydhcp does not tell it what to boot: it, or the relay that passed its request on, is in another network",
        lambda facts: facts.kind == "unanswered" and facts.reason == "network",
        "{why}",
        "add that network to clients: of proxydhcp, which without it are the networks of its interface",
        told=False,
    ),
    VerdictRule(
        "boot-untold",
        "proxydhcp does not tell it what to boot for another reason",
        lambda facts: facts.kind == "unanswered",
        "{why}",
        "castd pxe shows what it would be told",
        told=False,
    ),
    VerdictRule(
        "boot-rival",
        "it was told what to boot, has not fetched it, and another proxy was heard within the last hour",
        lambda facts: facts.kind == "unfetched" and bool(facts.server) and facts.proxy,
        "another server, {server}, tells machines what to boot as well: it may have taken that",
        "switch one of them off, or give each its own clients:",
    ),
    VerdictRule(
        "boot-overruled",
        "it was told what to boot, has not fetched it, and a DHCP server was heard within the last hour that says it "
        "itself",
        lambda facts: facts.kind == "unfetched" and bool(facts.server),
        "the DHCP server {server} says what to boot itself, and machines take that",
        "remove its boot file and its options 60 and 175.176",
    ),
    VerdictRule(
        "boot-ignored",
        "it was told what to boot, and has not fetched it",
        lambda facts: facts.kind == "unfetched",
        "the answer did not reach it, or it has taken another one",
        "try answer: {form}, and see whether another server answers or a switch drops offers (DHCP snooping)",
    ),
)

_TOLD: Final[Mapping[str, bool]] = {rule.id: rule.told for rule in RULES}


def isWell(outcome: str, times: int) -> bool:
    """
    Return whether a transfer needs no verdict, as nearly all do: then its facts need not be gathered.

    @param times: how often the machine has fetched this file.
    """
    return outcome == outcomes.DONE and times < AGAIN


def judge(facts: Facts) -> Verdict | None:
    """Return the verdict of the first rule that holds; L{None}: nothing failed, or nothing is known of why."""
    if isWell(facts.outcome, facts.times):
        return None
    rule = next((rule for rule in RULES if rule.holds(facts)), None)
    if rule is None:
        return None
    if "{" not in rule.cause and "{" not in rule.cure:
        return Verdict(rule.id, rule.cause, rule.cure)
    known = {**facts._asdict(), "smaller": facts.smaller}
    return Verdict(rule.id, rule.cause.format_map(known), rule.cure.format_map(known))


def clip(text: str) -> str:
    """Return a text of a stranger, cut to what a field holds."""
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def verdictFields(facts: Facts) -> dict[str, object]:
    """Return the fields of the verdict on these facts, for an event; none if there is none."""
    verdict = judge(facts)
    return {} if verdict is None else fieldsOf(verdict)


def fieldsOf(verdict: Verdict) -> dict[str, object]:
    """Return the fields of a verdict, for an event."""
    return {"verdict": verdict.id, "cause": clip(verdict.cause), "cure": verdict.cure}


def remark(verdict: object, cause: object, cure: object) -> str:
    """Return what the line of an event says of its verdict; C{""}: it has none, or its line says it already."""
    return f"; {cause}: {cure}" if _TOLD.get(str(verdict)) else ""
