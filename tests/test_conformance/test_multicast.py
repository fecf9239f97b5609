"""
RFC 2090: masters, listeners, and who takes whose place.  The ids are those of docs/transports/multicast.md.
"""

from itertools import pairwise
from typing import Any

import pytest

from castd.packets.tftp import Data, Error, Oack, buildAck, parse
from castd.request import Peer
from castd.testing import RecordingClient, pattern
from tests.support.clients.multicast import Member, value
from tests.support.clients.tftp import download, hear, isError, rrq, wrq
from tests.support.stage import AFILE, ASKED, SERVER, GroupStage
from tests.support.vectors import vectors

GROUP = ("239.255.0.0", 1758)


def gaps(instants: list[float]) -> list[float]:
    return [later - sooner for sooner, later in pairwise(instants)]


def serving(stage: GroupStage, upTo: int = 1) -> Member:
    """C1 is master and has asked for blocks up to this one, each answered at once."""
    first = stage.join(1)
    assert first.ack(*range(upTo)) == list(range(1, upTo + 1))
    return first


def test_MC01_theFirstIsMaster() -> None:
    """The first request: an OACK with all options and the mastership from a new port, and no DATA."""
    with GroupStage() as stage:
        first = stage.join(1)
        assert first.oack == Oack((("blksize", "8"), ("tsize", "40"), ("multicast", "239.255.0.0,1758,1")))
        assert first.tid != SERVER
        assert stage.heard(0.2) == []


def test_MC02_theFirstBlock() -> None:
    """ACK 0 brings DATA 1 to the group, from the port of the OACK."""
    with GroupStage() as stage:
        first = stage.join(1)
        first.client.send(buildAck(0), first.tid)
        (block,) = stage.heard()
        assert (block.datagram, block.source) == (b"\0\3\0\1" + AFILE[:8], GROUP)
        assert stage.network.capture is not None
        assert stage.network.capture[-1].source == first.tid


def test_MC03_toTheEnd() -> None:
    """ACK 1 to 5 bring DATA 2 to 6, the last empty; ACK 6 ends it and closes the group."""
    with GroupStage() as stage:
        first = serving(stage)
        assert first.ack(1, 2, 3, 4) == [2, 3, 4, 5]
        first.client.send(buildAck(5), first.tid)
        assert [letter.datagram for letter in stage.heard()] == [b"\0\3\0\6"]
        assert first.ack(6) == []
        stage.over()
        assert [event["outcome"] for event in stage.told("received")] == ["done"]


def test_MC04_aSecondListens() -> None:
    """The same request during the transfer: OACK without mastership from the group's port, and the flow goes on."""
    with GroupStage() as stage:
        first = serving(stage)
        second = stage.join(2)
        assert second.oack.options[-1] == ("multicast", "239.255.0.0,1758,0")
        assert second.tid == first.tid
        assert first.ack(1) == [2]


def test_MC05_aConfirmationIsNotAnswered() -> None:
    """A listener's ACK 0 after its OACK gets no answer."""
    with GroupStage() as stage:
        serving(stage)
        second = stage.join(2)
        assert second.ack(0) == []
        assert second.told() == []


def test_MC06_nothingIsRepeatedToAListener() -> None:
    """A listener that stays silent after its OACK is sent nothing more, while the master goes on."""
    with GroupStage() as stage:
        first = serving(stage)
        second = stage.join(2)
        for number in range(1, 6):
            first.ack(number)
            stage.network.advance(0.9)
        assert second.told() == []


def test_MC07_theNextMaster() -> None:
    """When the master is done the listener gets the mastership, in full form: same address, port and options."""
    with GroupStage() as stage:
        first = serving(stage, 6)
        second = stage.join(2)
        first.ack(6)
        assert second.told() == [Oack((("blksize", "8"), ("tsize", "40"), ("multicast", "239.255.0.0,1758,1")))]


@pytest.mark.parametrize(("number", "blocks"), [(3, [4]), (0, [1])])
def test_MC08_theNextMasterSaysWhatItLacks(number: int, blocks: list[int]) -> None:
    """The new master's first ACK 3 brings DATA 4, not DATA 1."""
    with GroupStage() as stage:
        first = serving(stage, 6)
        second = stage.join(2)
        first.ack(6)
        assert second.ack(number) == blocks


def test_MC09_theNextMasterLacksNothing() -> None:
    """The new master's first ACK 6: it is done, without DATA."""
    with GroupStage() as stage:
        first = serving(stage, 6)
        second = stage.join(2)
        first.ack(6)
        assert second.ack(6) == []
        stage.over()
        assert [event["outcome"] for event in stage.told("received")] == ["done", "done"]


def test_MC10_aMasterThatNeverSpeaks() -> None:
    """The OACK is repeated at growing intervals of at most a second; after 3 s the mastership passes on."""
    with GroupStage() as stage:
        first = stage.join(1)
        second = stage.join(2)
        start = stage.network.seconds()
        stage.network.advance(2.9)
        letters = first.client.take()
        between = gaps([letter.time for letter in letters])
        assert len(letters) >= 3
        assert between == sorted(between)
        assert between[-1] <= 1.0
        assert second.told() == []
        stage.network.advance(start + 3.1 - stage.network.seconds())
        assert (first.roles(), second.roles()) == (["0"], ["1"])
        assert stage.heard() == []


def test_MC11_aMasterThatFallsSilent() -> None:
    """DATA 1 is repeated to the group at growing intervals of at most a second; after 3 s the listener is master."""
    with GroupStage() as stage:
        first = serving(stage)
        second = stage.join(2)
        letters = stage.heard(2.9)
        between = gaps([letter.time for letter in letters])
        assert {letter.datagram[3] for letter in letters} == {1}
        assert between == sorted(between)
        assert max(between) <= 1.0
        assert second.told() == []
        stage.heard(0.3)
        assert (first.roles(), second.roles()) == (["0"], ["1"])


def test_MC12_itComesBack() -> None:
    """After that an ACK 1 of the old master gets no DATA, at most one OACK; it is a listener, and gets its turn."""
    with GroupStage() as stage:
        first = serving(stage)
        second = stage.join(2)
        stage.heard(3.2)
        first.told()
        assert first.ack(1) == []
        assert first.roles() in ([], ["0"])
        assert second.ack(1, 2, 3, 4, 5, 6) == [2, 3, 4, 5, 6]
        assert first.roles() == ["1"]
        assert first.ack(6) == []
        stage.over()


def test_MC13_itNeverComesBack() -> None:
    """Once all others are done the dead one gets two more terms, then one ERROR 0, and the group is closed."""
    with GroupStage() as stage:
        first = serving(stage)
        second = stage.join(2)
        stage.heard(3.2)
        second.told()
        assert second.ack(1, 2, 3, 4, 5, 6) == [2, 3, 4, 5, 6]
        first.client.take()
        stage.heard(60)
        packets = first.told()
        assert isError(packets.pop(), 0)
        assert {value(packet) for packet in packets} <= {"239.255.0.0,1758,1", "239.255.0.0,1758,0"}
        assert len(packets) > 2
        stage.over()
        assert [event["outcome"] for event in stage.told("received")] == ["done", "silent"]
        # Its first turn, the other's, and its two more.
        assert [event["changes"] for event in stage.told("closed")] == [3]


def test_MC14_corrections() -> None:
    """A listener that acknowledges like a master is corrected once a second and three times in all."""
    with GroupStage({"afile": pattern(800)}) as stage:
        first = serving(stage, 4)
        second = stage.join(2)
        second.ack(0)
        start = stage.network.seconds()
        for _ in range(5):
            second.ack(3)
            stage.network.advance(0.1)
        assert len(second.client.inbox) == 1
        for number in range(4, 24):
            first.ack(number)
            second.ack(3)
            stage.network.advance(0.3)
        times = [start - 1, *(letter.time for letter in second.client.inbox)]
        assert second.roles() == ["0", "0", "0"]
        assert min(gaps(times)) >= 1


def test_MC15_aListenerThatHasEverything() -> None:
    """ACK 6 of a listener after block 6 was sent: it is done, and never made master."""
    with GroupStage() as stage:
        first = serving(stage, 6)
        second = stage.join(2)
        second.ack(6)
        assert [event["outcome"] for event in stage.told("received")] == ["done"]
        first.ack(6)
        assert second.told() == []
        stage.over()


def test_MC16_aListenerThatCannotHaveEverything() -> None:
    """ACK 6 of a listener before block 6 was ever sent: it stays."""
    with GroupStage() as stage:
        first = serving(stage)
        second = stage.join(2)
        second.ack(6)
        assert first.ack(1, 2, 3, 4) == [2, 3, 4, 5]
        second.ack(6)
        assert stage.told("received") == []
        first.ack(5, 6)
        assert second.roles()[-1] == "1"


def test_MC17_aListenersError() -> None:
    """A listener's ERROR 0: it is gone, without an answer."""
    with GroupStage() as stage:
        first = serving(stage)
        second = stage.join(2)
        second.error()
        stage.network.advance(0.1)
        assert second.told() == []
        assert [event["outcome"] for event in stage.told("received")] == ["aborted"]
        first.ack(1, 2, 3, 4, 5, 6)
        stage.over()


def test_MC18_aMastersError() -> None:
    """The master's ERROR 0: the next listener is master within 100 ms."""
    with GroupStage() as stage:
        first = serving(stage)
        second = stage.join(2)
        first.error()
        stage.network.advance(0.1)
        assert (first.told(), second.roles()) == ([], ["1"])


def test_MC19_aDuplicate() -> None:
    """ACK 2 twice brings DATA 3 once."""
    with GroupStage() as stage:
        first = serving(stage, 2)
        first.client.send(buildAck(2), first.tid)
        first.client.send(buildAck(2), first.tid)
        assert stage.blocks() == [3]


def test_MC20_anOldAck() -> None:
    """ACK 1 after ACK 3 is ignored."""
    with GroupStage() as stage:
        first = serving(stage, 4)
        assert first.ack(1) == []
        assert first.ack(4) == [5]


@pytest.mark.parametrize("number", [7, 60000])
def test_MC21_anAckBeyondTheEnd(number: int) -> None:
    """ACK 7 or ACK 60000 is ignored."""
    with GroupStage() as stage:
        first = serving(stage, 2)
        assert first.ack(number) == []
        assert first.ack(2) == [3]


def test_aMasterThatHasTheBeginning() -> None:
    """
    A master acknowledges block 3 at once, as it has the beginning from a server that was started anew: it gets block 4.
    A listener that has nothing gets all when it is master.
    """
    with GroupStage() as stage:
        first, second = stage.join(1), stage.join(2)
        assert first.ack(3, 5) == [4, 6]
        first.client.send(buildAck(6), first.tid)
        stage.network.advance(0.05)
        assert second.roles()[-1] == "1"
        assert [event["outcome"] for event in stage.told("received")] == ["done"]
        assert second.ack(0, 1, 2, 3, 4) == [1, 2, 3, 4, 5]


def test_aMasterThatHasAll() -> None:
    """A master that acknowledges the last block at once has the file: it is done, and the listener is master."""
    with GroupStage() as stage:
        first, second = stage.join(1), stage.join(2)
        first.client.send(buildAck(6), first.tid)
        stage.network.advance(0.05)
        assert second.roles()[-1] == "1"
        assert [event["outcome"] for event in stage.told("received")] == ["done"]
        assert second.ack(0, 1) == [1, 2]


def test_nobodyIsDeafForWhatWasNeverSent() -> None:
    """
    A listener that asks for the first block when one block of a hundred was sent, the ninety-first, and is slow to
    answer, is not taken for one that hears nothing of the group.
    """
    with GroupStage({"afile": pattern(8 * 100)}) as stage:
        first, second, _ = stage.join(1), stage.join(2), stage.join(3)
        assert first.ack(90) == [91]
        first.error()
        stage.network.advance(0.05)
        assert second.ack(0) == [1]
        stage.network.advance(0.9)
        assert stage.told("moved") == []


@pytest.mark.parametrize("port", ["of requests", "of the group"])
def test_MC22_aListenerAsksAgain(port: str) -> None:
    """A listener's repeated request, to either port: its OACK again; it is listed once."""
    with GroupStage() as stage:
        serving(stage)
        second = stage.join(2)
        second.client.send(rrq("afile", **ASKED), SERVER if port == "of requests" else second.tid)
        stage.network.advance(0.05)
        assert second.roles() == ["0"]
        (cast,) = stage.listener.casts()
        assert len(cast.receivers) == 2


def test_MC23_theMasterAsksAgain() -> None:
    """The master's repeated request before its first ACK: its OACK again."""
    with GroupStage() as stage:
        first = stage.join(1)
        first.client.send(rrq("afile", **ASKED), SERVER)
        stage.network.advance(0.05)
        assert first.roles() == ["1"]


def test_MC24_etherbootComesFromAnotherPort() -> None:
    """Etherboot repeats its request from the next port: one member, at the new port, all its three options granted."""
    with GroupStage({"f": pattern(70_000)}, port=1758) as stage:
        request = rrq("/f", multicast="", blksize=1024, tsize="")
        stage.join(1, 2001, request)
        stage.network.advance(9.9)
        second = stage.join(1, 2002, request)
        assert second.oack == Oack((("blksize", "1024"), ("multicast", "239.255.0.0,1758,1"), ("tsize", "70000")))
        (cast,) = stage.listener.casts()
        assert list(cast.receivers) == [("10.0.0.11", 2002)]
        assert second.ack(0) == [1]


def test_otherOptionsAreAnotherClient() -> None:
    """A request of the same machine that is not the same is no repetition of Etherboot's: both are members."""
    with GroupStage({"f": pattern(70_000)}, port=1758) as stage:
        stage.join(1, 2001, rrq("/f", multicast="", blksize=1024, tsize=""))
        stage.network.advance(9.9)
        assert value(stage.join(1, 2002, rrq("/f", tsize=0, blksize=1024, multicast="")).oack).endswith(",0")
        (cast,) = stage.listener.casts()
        assert list(cast.receivers) == [("10.0.0.11", 2001), ("10.0.0.11", 2002)]


def test_MC24_etherbootNamesOurAddress() -> None:
    """x-tftm://host/10.0.0.1/path: Etherboot leaves our address in the name, and it is dropped; any other stays."""
    with GroupStage() as stage:
        assert value(stage.join(1, request=rrq("10.0.0.1/afile", **ASKED)).oack) == "239.255.0.0,1758,1"
        assert isError(stage.ask(rrq("10.0.0.7/afile", **ASKED))[1], 1)


def test_MC25_netascii() -> None:
    """netascii is served by unicast, and the reason is told."""
    with GroupStage() as stage:
        packet = stage.ask(rrq("afile", mode="netascii", **ASKED))[1]
        assert packet == Oack((("blksize", "8"),))
        assert [event["why"] for event in stage.told("declined")] == ["netascii"]


def test_MC26_tooManyBlocks() -> None:
    """A file of 65536 blocks is served by unicast."""
    with GroupStage({"big": pattern(65535 * 8)}) as stage:
        assert stage.ask(rrq("big", **ASKED))[1] == Oack((("blksize", "8"), ("tsize", str(65535 * 8))))
        assert [event["why"] for event in stage.told("declined")] == ["too-many-blocks"]


@pytest.mark.slow
def test_MC27_asManyBlocksAsThereMayBe() -> None:
    """A file of exactly 65535 blocks has a group; block 65535 arrives under its own number."""
    with GroupStage({"big": pattern(65535 * 8 - 1)}) as stage:
        first = stage.join(1, request=rrq("big", **ASKED))
        assert first.value.endswith(",1")
        assert all(first.ack(number) == [number + 1] for number in range(65535))
        first.ack(65535)
        stage.over()


def test_MC28_anotherBlockSize() -> None:
    """Another block size while a group is alive: a second group with another address and port of ours."""
    with GroupStage() as stage:
        first = serving(stage)
        other = stage.join(2, request=rrq("afile", blksize=16, tsize=0, multicast=""))
        assert other.value == "239.255.0.1,1758,1"
        assert other.tid != first.tid


def test_MC29_aChangedFile() -> None:
    """The file was replaced: its newcomers get a group of their own."""
    with GroupStage() as stage:
        first = serving(stage)
        stage.site.files["afile"] = pattern(41)[1:]
        other = stage.join(2)
        assert other.value == "239.255.0.1,1758,1"
        assert other.ack(0) == [1]
        assert first.ack(1) == [2]


def test_MC30_noGroupIsFree() -> None:
    """The pool is empty: unicast; after its group's end an address rests for 30 s."""
    with GroupStage({"a": AFILE, "b": AFILE[1:]}, options={"groups": "239.255.0.0/32"}) as stage:
        first = stage.join(1, request=rrq("a", **ASKED))
        assert stage.ask(rrq("b", **ASKED))[1] == Oack((("blksize", "8"), ("tsize", "39")))
        assert [event["why"] for event in stage.told("declined")] == ["pool-empty"]
        first.error()
        stage.network.advance(29)
        assert stage.ask(rrq("b", **ASKED), stage.client(2001))[1] == Oack((("blksize", "8"), ("tsize", "39")))
        stage.network.advance(1.1)
        assert stage.join(2, request=rrq("b", **ASKED)).value == "239.255.0.0,1758,1"


def test_MC31_aStranger() -> None:
    """An ACK from an unknown port: ERROR 5 there, and the group is undisturbed."""
    with GroupStage() as stage:
        first = serving(stage)
        stranger = stage.client(2009)
        stranger.send(buildAck(1), first.tid)
        assert isError(hear(stranger), 5)
        assert stage.blocks() == []
        assert first.ack(1) == [2]


@pytest.mark.parametrize("options", [{"windowsize": 4}, {"timeout": 5}, {"timeout": 60}, {"rollover": 1}])
def test_MC32_MC33_whatAGroupCannotHave(options: dict[str, Any]) -> None:
    """windowsize and timeout are left out of a group's OACK."""
    with GroupStage() as stage:
        first = stage.join(1, request=rrq("afile", **ASKED, **options))
        assert [name for name, _ in first.oack.options] == ["blksize", "tsize", "multicast"]


def test_MC34_theNameIsCopied() -> None:
    """MULTICAST is answered as MULTICAST."""
    with GroupStage() as stage:
        assert stage.join(1, request=rrq("afile", MULTICAST="")).oack.options[0][0] == "MULTICAST"


def test_MC35_aWrite() -> None:
    """A write request with multicast: the option is left out."""
    with GroupStage({}, uploads=True) as stage:
        assert stage.ask(wrq("up", blksize=8, multicast=""))[1] == Oack((("blksize", "8"),))


def test_MC36_tenThatLeaveWithoutAWord() -> None:
    """Ten iPXE that leave after the last block cost 0.3 s each; the others complete, the group is closed in time."""
    with GroupStage() as stage:
        first = stage.join(1)
        silent = [stage.join(number) for number in range(2, 12)]
        last = stage.join(12)
        first.ack(0, 1, 2, 3, 4, 5)
        for member in silent:
            member.client.port.stopListening()
        start = stage.network.seconds()
        first.ack(6)
        while not last.client.inbox:
            stage.network.advance(0.01)
            assert stage.network.seconds() < start + 10 * 0.3 + 0.1
        assert last.roles() == ["1"]
        last.ack(6)
        stage.network.advance(start + 70 - stage.network.seconds())
        stage.over()


def test_MC36_tenThatAreSwitchedOff() -> None:
    """The same, when their machines are off and nothing says that their ports are closed."""
    with GroupStage() as stage:
        first = stage.join(1)
        silent = [stage.join(number) for number in range(2, 12)]
        last = stage.join(12)
        first.ack(0, 1, 2, 3, 4, 5)
        start = stage.network.seconds()
        first.ack(6)
        while not last.client.inbox:
            stage.network.advance(0.01)
            assert stage.network.seconds() < start + 10 * 0.3 + 0.2
        last.ack(6)
        stage.network.advance(start + 70 - stage.network.seconds())
        assert all(member.client.inbox for member in silent)
        stage.over()


@pytest.mark.parametrize("acknowledged", [1, 6])
def test_MC37_noLongSilence(acknowledged: int) -> None:
    """As long as members are there the group is never silent for more than 5 s, also if timers are late."""
    with GroupStage() as stage:
        first = serving(stage, acknowledged)
        second, third = stage.join(2), stage.join(3)
        stage.heard()
        times = [stage.network.seconds()]
        first.ack(acknowledged)
        while stage.casts():
            times += [letter.time for letter in stage.heard(0.1)]
        times.append(stage.network.seconds())
        assert times[-1] - times[0] > 10
        assert max(gaps(times)) <= 4.6
        assert second.told()
        assert third.told()


def test_MC38_theServerStops() -> None:
    """ERROR 0 to each member by unicast, none to the group."""
    with GroupStage() as stage:
        first = serving(stage)
        second = stage.join(2)
        stage.listener.stop()
        assert stage.heard() == []
        assert isError(first.told()[-1], 0)
        assert isError(second.told()[-1], 0)
        stage.over()


def test_MC39_aLateJoiner() -> None:
    """Who joins at block 4 hears 5 and 6; as master it asks from the start, then jumps over what it has."""
    with GroupStage() as stage:
        first = serving(stage, 4)
        second = stage.join(2)
        assert first.ack(4, 5, 6) == [5, 6]
        assert second.roles() == ["1"]
        assert second.ack(0, 1, 2, 3) == [1, 2, 3, 4]
        assert second.ack(6) == []
        stage.over()


def test_MC40_aLostBlock() -> None:
    """A measured master that does not answer a block gets it again within 50 ms."""
    with GroupStage() as stage:
        first = serving(stage, 3)
        first.client.send(buildAck(3), first.tid)
        letters = stage.heard(0.06)
        assert [letter.datagram[3] for letter in letters][:2] == [4, 4]
        assert letters[1].time - letters[0].time <= 0.05


def test_aBusyMasterFindsNoHeapOfOacks() -> None:
    """A measured master that is silent is sent its OACK at least 0.1 s apart, while its block goes out sooner."""
    with GroupStage() as stage:
        first = serving(stage, 3)
        stage.join(2)
        first.told()
        copies = stage.blocks(0.9)
        oacks = first.client.take()
        assert {value(parse(letter.datagram))[-1] for letter in oacks} == {"1"}
        assert len(copies) > len(oacks) > 2
        assert min(gaps([letter.time for letter in oacks])) >= 0.1


def test_MC41_aDeafMaster() -> None:
    """A master that repeats ACK 0 though the block went out is served by unicast from the group's port, at its pace."""
    with GroupStage() as stage:
        first = stage.join(1)
        for wait in (0.25, 0.5, 0.3):
            first.client.send(buildAck(0), first.tid)
            stage.network.advance(wait)
        # The OACK before it may be news to it: it may have been told that it is no master.
        oack, data, *_ = first.told()
        assert (value(oack), data) == ("239.255.0.0,1758,1", Data(1, AFILE[:8]))
        assert stage.network.capture is not None
        got = [AFILE[:8]]
        for number in range(1, 6):
            first.client.send(buildAck(number), first.tid)
            letter = first.client.expect()
            assert letter.source == first.tid
            got.append(letter.datagram[4:])
        first.client.send(buildAck(6), first.tid)
        assert b"".join(got) == AFILE
        stage.over()
        assert [event["why"] for event in stage.told("moved")] == ["deaf"]
        assert stage.told("received")[0]["outcome"] == "done"
        again = stage.ask(rrq("afile", **ASKED), stage.client(2001, "10.0.0.11"))
        assert again[1] == Oack((("blksize", "8"), ("tsize", "40")))
        assert [event["why"] for event in stage.told("declined")] == ["deaf"]


def deafAndListener(stage: GroupStage) -> tuple[Member, Member]:
    """Two members, of whom the first has just been found deaf."""
    first, second = stage.join(1), stage.join(2)
    for wait in (0.25, 0.5, 0.01):
        first.client.send(buildAck(0), first.tid)
        stage.network.advance(wait)
    return first, second


def test_MC42_aDeafMasterAndAListener() -> None:
    """The listener is master at once; the group and the deaf one's unicast go on side by side, and both complete."""
    with GroupStage() as stage:
        first, second = deafAndListener(stage)
        assert second.roles() == ["1"]
        assert [packet for packet in first.told() if isinstance(packet, Data)] == [Data(1, AFILE[:8])]
        stage.heard()
        for number in range(6):
            assert second.ack(number) == [number + 1]
            if number:
                first.client.send(buildAck(number), first.tid)
                stage.network.advance(0.01)
                assert first.told() == [Data(number + 1, AFILE[number * 8 : number * 8 + 8])]
        first.client.send(buildAck(6), first.tid)
        second.ack(6)
        stage.over()
        assert [event["outcome"] for event in stage.told("received")] == ["done", "done"]


def test_aListenerIsFoundDeaf() -> None:
    """A listener that hears nothing is told that it is master before it is sent blocks, until it acknowledges one."""
    with GroupStage() as stage:
        first = serving(stage, 6)
        second, third = stage.join(2), stage.join(3)
        first.ack(6)
        # It answers what it is told alone, and hears nothing of the group.
        for _ in range(4):
            assert stage.told("moved") == []
            assert second.roles() == ["1"]
            second.client.send(buildAck(2), second.tid)
            stage.network.advance(0.051)
        assert len(stage.told("moved")) == 1
        assert third.roles() == ["1"]
        packets = second.told()
        assert packets[-1] == Data(3, AFILE[16:24])
        assert value(packets[-2]) == "239.255.0.0,1758,1"
        # Both of them are lost, and come again.
        third.ack(6)
        stage.network.advance(0.4)
        packets = second.told()
        assert [value(each) if isinstance(each, Oack) else each for each in packets[:2]] == [
            "239.255.0.0,1758,1",
            Data(3, AFILE[16:24]),
        ]
        for number in (3, 4, 5):
            second.client.send(buildAck(number), second.tid)
            stage.network.advance(0.01)
            assert second.told() == [Data(number + 1, AFILE[number * 8 : number * 8 + 8])]
        second.client.send(buildAck(6), second.tid)
        stage.network.advance(0.01)
        stage.over()


def test_nobodyHears() -> None:
    """
    Where the group's data reaches nobody each is found by itself: it answers its OACK and never a block.  Who never
    says a word gets a few OACKs, and is given up.
    """
    with GroupStage() as stage:
        members = [stage.join(number) for number in range(1, 6)]
        started = stage.network.seconds()
        members[0].client.send(buildAck(0), members[0].tid)
        while len(stage.told("moved")) < 4:
            stage.network.advance(0.001)
            for member in members[:4]:
                acks = [packet.number if isinstance(packet, Data) else 0 for packet in member.told()]
                for number in acks:
                    member.client.send(buildAck(number), member.tid)
        # The first is not known to be one that answers: it has three seconds, and another turn after the others.
        assert stage.network.seconds() - started < 3.5
        while len(stage.told("received")) < 4:
            for member in members[:4]:
                for packet in member.told():
                    if isinstance(packet, Data):
                        member.client.send(buildAck(packet.number), member.tid)
                    elif isinstance(packet, Oack):
                        member.client.send(buildAck(0), member.tid)
            stage.network.advance(0.001)
        assert stage.network.seconds() - started < 7
        stage.heard(60)
        roles = members[4].roles()
        assert set(roles) == {"1"}
        assert len(roles) <= 7
        stage.over()
        assert [event["outcome"] for event in stage.told("received")] == ["done"] * 4 + ["silent"]
        assert len(stage.told("moved")) == 4
        again = stage.ask(rrq("afile", **ASKED), stage.client(2001, "10.0.0.11"))[1]
        assert "multicast" not in dict(again.options)


def test_notDeafAfterAll() -> None:
    """
    One that was taken for deaf, and hears the group, goes on from what it has: that counts as sent to it.  It is not
    remembered as deaf any more.
    """
    with GroupStage() as stage:
        first, second = deafAndListener(stage)
        assert len(stage.told("moved")) == 1
        assert list(stage.site.deafMachines.until) == ["10.0.0.11"]
        first.told()
        stage.heard()
        assert second.ack(0, 1, 2, 3) == [1, 2, 3, 4]
        first.client.send(buildAck(4), first.tid)
        stage.network.advance(0.01)
        assert first.told() == [Data(5, AFILE[32:40])]
        assert list(stage.site.deafMachines.until) == []
        assert [event["peer"] for event in stage.told("hears")] == ["10.0.0.11:2000"]
        first.client.send(buildAck(6), first.tid)
        assert second.ack(4, 5, 6) == [5, 6]
        first.client.send(buildAck(6), first.tid)
        stage.network.advance(0.01)
        stage.over()
        assert [event["outcome"] for event in stage.told("received")] == ["done", "done"]


def test_MC43_aKnownMasterDies() -> None:
    """A measured master dies: its block goes out at least six times, and the listener is master after 1.0 to 1.3 s."""
    with GroupStage() as stage:
        first = stage.join(1)
        second = stage.join(2)
        first.ack(0, 1, 2, 3, 4)
        start = stage.network.seconds()
        first.client.send(buildAck(5), first.tid)
        letters = stage.heard(1.35)
        assert len([letter for letter in letters if letter.datagram == b"\0\3\0\6"]) >= 6
        oack = second.client.take()[0]
        assert 1.0 <= oack.time - start <= 1.3


# The exchanges that are written down.


@pytest.mark.parametrize("vector", vectors("rfc2090", "sequences"))
def test_sequences(vector: dict[str, Any]) -> None:
    """Each exchange, octet for octet: what clients say, and what the server must answer to whom."""
    files = {"afile": bytes(range(16)) + bytes(range(0x10, 0x28)), "f": pattern(70_000)}
    port = 1758 if vector["id"] == "M-S04" else 69
    with GroupStage(files, port=port, options={"groups": "239.255.0.1/32"}) as stage:
        Exchange(stage).play(vector["steps"])


class Exchange:
    """Plays one written exchange: a client's step is sent, a server's must be what went out next."""

    def __init__(self, stage: GroupStage) -> None:
        self.stage = stage
        self.clients: dict[str, RecordingClient] = {}
        self.tid: Peer = ("", 0)
        self._next = 0

    def client(self, name: str) -> RecordingClient:
        if name not in self.clients:
            machine, _, port = name.partition(":")
            self.clients[name] = self.stage.client(int(port or 2000), f"10.0.0.{10 + int(machine[1:])}")
        return self.clients[name]

    def play(self, steps: list[dict[str, str]]) -> None:
        for step in steps:
            if "event" in step:
                self.event(step["event"])
            elif step["from"].startswith("server"):
                self.expected(step)
            else:
                self.quietSince()
                target = self.stage.server if step["to"].startswith("server:") and "TID" not in step["to"] else self.tid
                self.client(step["from"]).send(bytes.fromhex(step["hex"]), target)
                self.stage.network.advance(0.001)
                self._next = self.after()

    def after(self) -> int:
        """Return where in the capture the answers to the last client's datagram begin."""
        assert self.stage.network.capture is not None
        return next(
            len(self.stage.network.capture) - back
            for back, sighting in enumerate(reversed(self.stage.network.capture))
            if sighting.source[0] != "10.0.0.1"
        )

    def quietSince(self) -> None:
        """Everything that went out was expected."""
        assert self.stage.network.capture is not None
        left = self.stage.network.capture[self._next :]
        assert not left, left

    def expected(self, step: dict[str, str]) -> None:
        """What went out next is this, to whom it should."""
        assert self.stage.network.capture is not None
        sighting = self.stage.network.capture[self._next]
        self._next += 1
        assert sighting.datagram.hex() == step["hex"]
        self.tid = sighting.source
        place = ("239.255.0.1", 1758) if step["to"].startswith("group") else self.client(step["to"]).address
        assert sighting.destination == place

    def event(self, text: str) -> None:
        """What happens between the lines."""
        if "timer fires" in text:
            self.stage.network.advance(0.26)
        elif "limit is reached" in text:
            self.stage.network.advance(3.0)
            assert self.stage.network.capture is not None
            self._next = len(self.stage.network.capture) - 2
        elif "new port" in text:
            self.stage.network.advance(9.9)
            assert self.stage.network.capture is not None
            self._next = len(self.stage.network.capture)
        elif "sends nothing" in text:
            self.quietSince()
        elif "closed" in text:
            self.stage.over()


@pytest.mark.slow
@pytest.mark.parametrize("vector", vectors("rfc2090", "eligibility"))
def test_eligibility(vector: dict[str, Any]) -> None:
    """A group for a file of at most 65535 blocks, whatever its size."""
    content = bytes(vector["size"])
    with GroupStage({"f": content}, options={"blksize": 1468}) as stage:
        packet = stage.ask(rrq("f", blksize=vector["blksize"], multicast=""))[1]
        assert ("multicast" in dict(packet.options)) == vector["multicast_allowed"]


# What has no number.


def test_aForgedRequestDrawsAFewDatagrams() -> None:
    """Who never says a word gets a handful of OACKs in all, no ERROR, and nothing starts a stream."""
    with GroupStage() as stage:
        first = stage.join(1)
        assert stage.heard(120) == []
        packets = first.told()
        assert all(isinstance(packet, Oack) for packet in packets)
        assert len(packets) <= 9
        stage.over()


def test_aForgedRequestBesideAGroup() -> None:
    """The same when others are there: the address that never answered draws a handful of datagrams."""
    with GroupStage() as stage:
        first = serving(stage, 6)
        forged = stage.join(2)
        first.ack(6)
        stage.heard(120)
        assert len(forged.told()) <= 9
        stage.over()


def test_othersShareTheCap() -> None:
    """Clients that ask for 1428, 1432, 1456 and 1468 share one group of 1428."""
    with GroupStage({"afile": pattern(9000)}) as stage:
        values = [
            stage.join(number, request=rrq("afile", blksize=size, tsize=0, multicast="")).value
            for number, size in enumerate((1428, 1432, 1456, 1468), 1)
        ]
        assert values == ["239.255.0.0,1758,1"] + ["239.255.0.0,1758,0"] * 3


def test_noFragments() -> None:
    """Whatever blksize is configured, no block is larger than what the interface sends unfragmented."""
    with GroupStage({"afile": pattern(9000)}, options={"blksize": 4000}) as stage:
        packet = stage.ask(rrq("afile", blksize=8000, multicast=""))[1]
        assert packet.options[0] == ("blksize", "1468")


def test_aCapOfSomeClients() -> None:
    """Clients with a cap share a group of their own, with blocks that reach them; the others have the larger ones."""
    caps = [{"clients": "10.0.0.128/25", "blksize": 1228}]
    with GroupStage({"afile": pattern(9000)}, options={"caps": caps}) as stage:
        asked = rrq("afile", blksize=1468, tsize=0, multicast="")
        found = [
            stage.ask(asked, stage.client(2000, f"10.0.0.{number}"))[1].options[::2] for number in (20, 130, 21, 131)
        ]
        assert found == [
            (("blksize", "1428"), ("multicast", "239.255.0.0,1758,1")),
            (("blksize", "1228"), ("multicast", "239.255.0.1,1758,1")),
            (("blksize", "1428"), ("multicast", "239.255.0.0,1758,0")),
            (("blksize", "1228"), ("multicast", "239.255.0.1,1758,0")),
        ]
        assert [event["beside"] for event in stage.told("opened")] == ["", "block size"]


def test_outsideTheNetworks() -> None:
    """A client of another network than the interface's own, behind a router perhaps, is served by unicast."""
    with GroupStage() as stage:
        client = stage.client(2000, "10.9.0.5")
        assert stage.ask(rrq("afile", **ASKED), client)[1] == Oack((("blksize", "8"), ("tsize", "40")))
        assert [event["why"] for event in stage.told("declined")] == ["outside"]
    with GroupStage(options={"clients": "10.9.0.0/24"}) as stage:
        client = stage.client(2000, "10.9.0.5")
        assert value(stage.ask(rrq("afile", **ASKED), client)[1]) == "239.255.0.0,1758,1"


def test_gathering() -> None:
    """The first block waits until nobody has joined for 0.2 s, 3 s at most; ACKs repeated meanwhile say nothing."""
    with GroupStage(options={"gather": 0.2, "gatherLimit": 3}) as stage:
        first = stage.join(1)
        for number in range(2, 12):
            first.client.send(buildAck(0), first.tid)
            stage.network.advance(0.1)
            stage.join(number)
        assert stage.heard(0.15) == []
        assert stage.blocks(0.1) == [1]
        assert stage.told("moved") == []


def test_aMemberServedByUnicastAsksAnew() -> None:
    """A deaf client that restarts from the same port is a new transfer, without a group."""
    with GroupStage() as stage:
        first = stage.join(1)
        for wait in (0.25, 0.5, 0.3):
            first.client.send(buildAck(0), first.tid)
            stage.network.advance(wait)
        first.client.take()
        first.client.send(rrq("afile", **ASKED), SERVER)
        stage.network.advance(0.01)
        assert first.told() == [Oack((("blksize", "8"), ("tsize", "40")))]


def test_plainClientsAtTheSamePort() -> None:
    """Who does not ask for a group is served as ever, in the middle of one."""
    with GroupStage() as stage:
        first = serving(stage, 3)
        octets, _ = download(stage, stage.client(2050, "10.0.0.50"), rrq("afile", blksize=8))
        assert octets == AFILE
        assert first.ack(3) == [4]


def test_errorsAreUnicast() -> None:
    """Nothing but DATA ever goes to a group, whatever happens."""
    with GroupStage() as stage:
        first = serving(stage)
        second = stage.join(2)
        first.error()
        stage.network.advance(5)
        second.error()
        stage.network.advance(5)
        assert stage.network.capture is not None
        to = [sighting.datagram[:2] for sighting in stage.network.capture if sighting.destination == GROUP]
        assert set(to) == {b"\0\3"}
        assert not any(isinstance(packet, Error) for packet in second.told())


# What is told of it.


def test_theClosingEvent() -> None:
    """A group's end tells who was there, who was master, what was sent, what again, and who went on by unicast."""
    with GroupStage() as stage:
        deaf = stage.join(3)
        first = stage.join(1)
        for wait in (0.25, 0.5, 0.01):
            deaf.client.send(buildAck(0), deaf.tid)
            stage.network.advance(wait)
        stage.heard()
        first.ack(0, 1, 2)
        second = stage.join(2)
        first.ack(3, 4, 5, 6)
        second.ack(0, 1, 2, 6)
        for number in range(1, 7):
            deaf.client.send(buildAck(number), deaf.tid)
            stage.network.advance(0.005)
        stage.over()
        (opened,) = stage.told("opened")
        assert (opened["name"], opened["count"], opened["beside"]) == ("afile", 6, "")
        (closed,) = stage.told("closed")
        assert closed["group"] == "239.255.0.0:1758"
        assert (closed["members"], closed["masters"], closed["changes"], closed["passes"]) == (3, 3, 2, 3)
        assert (closed["moved"], closed["beside"]) == ("1 deaf", 6)
        numbers = [sighting.datagram for sighting in stage.network.capture or () if sighting.destination == GROUP]
        assert closed["blocks"] == len(numbers)
        assert closed["repairs"] == len(numbers) - 6
        assert closed["seconds"] > 0.75


def test_whyASecondGroup() -> None:
    """Who opens a group beside another of the same name is told in what it differs."""
    with GroupStage() as stage:
        serving(stage)
        stage.join(2, request=rrq("afile", blksize=16, tsize=0, multicast=""))
        stage.site.files["afile"] = pattern(41)[1:]
        stage.join(3)
        assert [event["beside"] for event in stage.told("opened")] == ["", "block size", "version"]


def test_aMasterThatMustBeStirred() -> None:
    """
    atftp acknowledges one duplicate and no more: when a known master has not answered four repetitions, the next block
    goes out as well, and its acknowledgement is heard.
    """
    with GroupStage({"afile": pattern(800)}) as stage:
        first = serving(stage, 5)
        first.client.send(buildAck(5), first.tid)
        numbers = stage.blocks(0.4)
        assert numbers[:4] == [6, 6, 6, 6]
        assert numbers[4:6] == [6, 7]
        assert first.ack(7)[0] == 8
