"""
TFTP, reading: blocks, options, windows, timers.  The ids are those of docs/transports/tftp.md.
"""

from itertools import pairwise
from typing import Any

import pytest
from zope.interface import implementer

from castd.interfaces import IContent
from castd.packets.tftp import Data, Oack, buildAck
from castd.testing import pattern
from tests.support.clients.tftp import ackedTo, data, download, hear, rrq, say
from tests.support.stage import SERVER, TftpStage

EIGHTY = pattern(80)


def times(stage: TftpStage, client: Any, seconds: float) -> list[float]:
    """When something came during so many seconds of the client's silence, counted from now."""
    start = stage.network.seconds()
    stage.network.advance(seconds)
    return [round(letter.time - start, 2) for letter in client.take()]


def test_TC01_firstBlockWithoutOptions() -> None:
    """RRQ without options: DATA 1 with 512 octets from a new port of the address that was asked."""
    with TftpStage() as stage:
        _, packet, tid = stage.ask(rrq())
        assert packet == data(1)
        assert (tid[0], tid[1] != 69) == ("10.0.0.1", True)
        other = stage.client(2001)
        other.send(rrq(), ("10.1.0.1", 69))
        assert other.expect().source[0] == "10.1.0.1"


def test_TC02_toTheEnd() -> None:
    """ACK 1 and ACK 2 bring DATA 2 and DATA 3 (276 octets); after ACK 3 the transfer is closed."""
    with TftpStage() as stage:
        client, _, tid = stage.ask(rrq())
        assert ackedTo(client, 1, tid) == data(2)
        last = ackedTo(client, 2, tid)
        assert last == data(3)
        assert len(last.payload) == 276
        say(client, 3, tid)
        stage.quiet(client, 40)
        stage.over()
        assert [event["outcome"] for event in stage.told("received")] == ["done"]


def test_TC03_aMultipleOfTheBlockSize() -> None:
    """A file of 1024 octets is three blocks, the third empty."""
    with TftpStage({"f": pattern(1024)}) as stage:
        octets, numbers = download(stage, stage.client(), rrq())
        assert (octets, numbers) == (pattern(1024), [1, 2, 3])
        stage.over()


def test_TC04_anEmptyFile() -> None:
    """An empty file is DATA 1 without data; ACK 1 ends it."""
    with TftpStage({"f": b""}) as stage:
        client, packet, tid = stage.ask(rrq())
        assert packet == Data(1, b"")
        say(client, 1, tid)
        stage.quiet(client, 40)
        stage.over()


def test_TC05_anOackIsConfirmedFirst() -> None:
    """blksize 1428 is granted; no DATA before ACK 0."""
    with TftpStage() as stage:
        client, packet, tid = stage.ask(rrq(blksize=1428))
        assert packet == Oack((("blksize", "1428"),))
        stage.quiet(client, 0.9)
        assert ackedTo(client, 0, tid) == data(1, blksize=1428)


def test_TC06_aBlockSizeAboveTheCap() -> None:
    """blksize 65464 is answered with 1468: what fits the network unfragmented."""
    with TftpStage() as stage:
        assert stage.ask(rrq(blksize=65464))[1] == Oack((("blksize", "1468"),))


@pytest.mark.parametrize("value", ["7", "0", "abc", "-1", "0x200", ""])
def test_TC07_aBlockSizeThatIsNone(value: str) -> None:
    """A blksize below 8, or no number, is left out: DATA 1 with 512 octets, no OACK."""
    with TftpStage() as stage:
        assert stage.ask(rrq(blksize=value))[1] == data(1)


def test_TC08_theLargestBlockSize() -> None:
    """blksize 70000 is answered with 65464 where the cap allows."""
    with TftpStage(options={"blksize": 65464}) as stage:
        assert stage.ask(rrq(blksize=70000))[1] == Oack((("blksize", "65464"),))


def test_TC09_namesAreCopied() -> None:
    """Option names and modes may be in any case; the OACK has the name as it was sent."""
    with TftpStage() as stage:
        assert stage.ask(rrq(mode="OcTeT", BLKSIZE=1428))[1] == Oack((("BLKSIZE", "1428"),))


def test_TC10_blksizeComesFirst() -> None:
    """tsize and blksize in this order: the OACK has blksize first, then the size."""
    with TftpStage() as stage:
        packet = stage.ask(rrq(tsize=0, blksize=1408))[1]
        assert packet == Oack((("blksize", "1408"), ("tsize", "1300")))


@pytest.mark.parametrize("value", ["999", "", "0"])
def test_TC11_theRealSize(value: str) -> None:
    """tsize is answered with the size of the file whatever its value was."""
    with TftpStage() as stage:
        assert stage.ask(rrq(tsize=value))[1] == Oack((("tsize", "1300"),))


def test_TC12_noSizeInNetascii() -> None:
    """netascii with tsize: left out, and if nothing else was asked there is no OACK."""
    with TftpStage({"f": b"a\n" * 700}) as stage:
        assert isinstance(stage.ask(rrq(mode="netascii", tsize=0))[1], Data)
        other = stage.client(2001)
        assert stage.ask(rrq(mode="netascii", tsize=0, blksize=600), other)[1] == Oack((("blksize", "600"),))


@implementer(IContent)
class Hollow:
    """A file of zeros that takes no memory, however large it is."""

    name = "f"
    version = "hollow"
    closes = 0

    def __init__(self, size: int) -> None:
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        return bytes(min(length, self.size - offset))

    def readInto(self, buffers: list[memoryview], offset: int) -> None:
        for buffer in buffers:
            buffer[:] = bytes(len(buffer))

    def close(self) -> None:
        self.closes += 1


def test_TC13_aSizeAbove32Bits() -> None:
    """A file of 5000000000 octets has this very tsize."""
    with TftpStage({"f": Hollow(5_000_000_000)}) as stage:
        assert stage.ask(rrq(tsize=0))[1] == Oack((("tsize", "5000000000"),))


def test_TC14_anUnknownOption() -> None:
    """An unknown option alone: DATA 1, no OACK, no ERROR."""
    with TftpStage() as stage:
        assert stage.ask(rrq(nosuch="x"))[1] == data(1)


def test_TC15_anOptionTwice() -> None:
    """blksize named twice: the first value counts and is answered once."""
    twice = rrq(blksize=1024) + b"blksize\x00512\x00"
    with TftpStage() as stage:
        assert stage.ask(twice)[1] == Oack((("blksize", "1024"),))


def test_TC16_aNegotiatedTimeout() -> None:
    """
    timeout 3: OACK and DATA 1 are repeated every 3 s; once ACK 1 and ACK 2 have come within a millisecond a lost DATA 3
    comes again within 50 ms, the gaps then growing up to 3 s.
    """
    with TftpStage({"f": pattern(5000)}) as stage:
        client, packet, tid = stage.ask(rrq(timeout=3))
        assert packet == Oack((("timeout", "3"),))
        assert times(stage, client, 9.5) == [3.0, 6.0, 9.0]
        assert isinstance(ackedTo(client, 0, tid), Data)
        assert times(stage, client, 9.5) == [3.0, 6.0, 9.0]
        ackedTo(client, 1, tid)
        assert ackedTo(client, 2, tid) == data(3, pattern(5000))
        start = stage.network.seconds()
        stage.network.advance(14)
        came = [letter.time - start for letter in client.take()]
        assert came[0] <= 0.05
        gaps = [after - before for before, after in pairwise(came)]
        assert gaps == sorted(gaps)
        assert gaps[-1] == pytest.approx(3.0, abs=0.01)


@pytest.mark.parametrize("value", ["0", "256"])
def test_TC17_aTimeoutOutOfRange(value: str) -> None:
    """timeout 0 and 256 are left out."""
    with TftpStage() as stage:
        assert stage.ask(rrq(timeout=value))[1] == data(1)


def test_TC18_microseconds() -> None:
    """utimeout 500000 is granted, and the interval is half a second."""
    with TftpStage() as stage:
        client, packet, _ = stage.ask(rrq(utimeout=500000))
        assert packet == Oack((("utimeout", "500000"),))
        assert times(stage, client, 1.6) == [0.5, 1.0, 1.5]


def test_TC19_powersOfTwo() -> None:
    """blksize2 1000 is answered with 512."""
    with TftpStage() as stage:
        client, packet, tid = stage.ask(rrq(blksize2=1000))
        assert packet == Oack((("blksize2", "512"),))
        assert ackedTo(client, 0, tid) == data(1)


def window(stage: TftpStage, size: int = 4) -> tuple[Any, Any]:
    """A client that has agreed on a window and confirmed the OACK.  -> it and the server's TID."""
    client, packet, tid = stage.ask(rrq(windowsize=size, blksize=8))
    assert packet == Oack((("blksize", "8"), ("windowsize", str(size))))
    say(client, 0, tid)
    return client, tid


def blocks(stage: TftpStage, client: Any) -> list[int]:
    """The numbers of the blocks that come before any timer rings."""
    stage.network.advance(0.003)
    return [data(number, EIGHTY, 8).number for number in map(numberOf, client.take())]


def numberOf(letter: Any) -> int:
    """The number of a block; its octets are the right ones."""
    number = int.from_bytes(letter.datagram[2:4], "big")
    assert letter.datagram == b"\0\3" + number.to_bytes(2, "big") + EIGHTY[(number - 1) * 8 : number * 8]
    return number


def test_TC20_windows() -> None:
    """windowsize 4: four blocks after ACK 0, the next four after ACK 4, to the empty last one of 80 octets."""
    with TftpStage({"f": EIGHTY}) as stage:
        client, tid = window(stage)
        assert blocks(stage, client) == [1, 2, 3, 4]
        say(client, 4, tid)
        assert blocks(stage, client) == [5, 6, 7, 8]
        say(client, 8, tid)
        assert blocks(stage, client) == [9, 10, 11]
        say(client, 11, tid)
        stage.quiet(client, 40)
        stage.over()


def test_TC21_aGapInAWindow() -> None:
    """ACK 2 after blocks 1 to 4, not sooner than an answer can come: blocks 3 to 6."""
    with TftpStage({"f": EIGHTY}) as stage:
        client, tid = window(stage)
        assert blocks(stage, client) == [1, 2, 3, 4]
        say(client, 2, tid)
        assert blocks(stage, client) == [3, 4, 5, 6]


def test_TC22_theWholeWindowLost() -> None:
    """
    ACK 4 again while 5 to 8 are in flight, not sooner than an answer can come: these once more; a third ACK 4 causes
    nothing.
    """
    with TftpStage({"f": EIGHTY}) as stage:
        client, tid = window(stage)
        blocks(stage, client)
        say(client, 4, tid)
        assert blocks(stage, client) == [5, 6, 7, 8]
        say(client, 4, tid)
        assert blocks(stage, client) == [5, 6, 7, 8]
        say(client, 4, tid)
        assert blocks(stage, client) == []


def test_TC23_aSilentWindow() -> None:
    """No ACK at all: the whole window is repeated from the last ACK, and it ends after the limit."""
    with TftpStage({"f": EIGHTY}) as stage:
        client, _ = window(stage)
        start = stage.network.seconds()
        stage.network.advance(100)
        letters = client.take()
        assert [numberOf(letter) for letter in letters] == [1, 2, 3, 4] * 6
        rounds = [round(letter.time - start) for letter in letters[::4]]
        assert rounds == [0, 1, 3, 7, 15, 23]
        stage.over()
        assert [(event["outcome"], round(event["seconds"])) for event in stage.told("received")] == [("silent", 31)]


def test_TC24_aWindowAboveTheCap() -> None:
    """windowsize 65535 is answered with 64."""
    with TftpStage() as stage:
        assert stage.ask(rrq(windowsize=65535))[1] == Oack((("windowsize", "64"),))


@pytest.fixture(scope="module")
def long() -> bytes:
    """A file of 65540 blocks of 8 octets, and a short one."""
    return pattern(65540 * 8 + 3)


@pytest.mark.slow
def test_TC25_rollingOverToOne(long: bytes) -> None:
    """rollover 1, more than 65535 blocks: the block after 65535 is number 1."""
    with TftpStage({"f": long}) as stage:
        octets, numbers = download(stage, stage.client(), rrq(blksize=8, windowsize=64, rollover=1))
        assert octets == long
        assert numbers[65530:] == [65531, 65532, 65533, 65534, 65535, 1, 2, 3, 4, 5, 6]
        stage.over()


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 64])
def test_TC26_rollingOverToZero(long: bytes, size: int) -> None:
    """No rollover option: the block after 65535 is number 0, ACK 0 is its ACK, and no OACK comes again."""
    with TftpStage({"f": long}) as stage:
        octets, numbers = download(stage, stage.client(), rrq(blksize=8, windowsize=size))
        assert octets == long
        assert numbers[65530:] == [65531, 65532, 65533, 65534, 65535, 0, 1, 2, 3, 4, 5]
        assert len(stage.told("rollover")) == 1
        stage.over()


def test_TC27_theApprentice() -> None:
    """A duplicate ACK 1 while block 2 is in flight: nothing is sent."""
    with TftpStage() as stage:
        client, _, tid = stage.ask(rrq())
        assert ackedTo(client, 1, tid) == data(2)
        say(client, 1, tid)
        stage.quiet(client)
        assert ackedTo(client, 2, tid) == data(3)


def test_TC28_nobodyAnswers() -> None:
    """No ACK for block 1: it is repeated after 1, 2 and 4 s, then there is silence, and it is closed after 31 s."""
    with TftpStage() as stage:
        client, _, _ = stage.ask(rrq())
        assert times(stage, client, 30.9) == [1.0, 3.0, 7.0]
        assert len(list(stage.listener.casts())) == 1
        stage.quiet(client, 0.2)
        stage.over()
        assert [event["outcome"] for event in stage.told("received")] == ["silent"]


def test_TC29_anAckOfTheFuture() -> None:
    """ACK 7 while block 1 is in flight is ignored."""
    with TftpStage({"f": pattern(10_000)}) as stage:
        client, _, tid = stage.ask(rrq())
        say(client, 7, tid)
        stage.quiet(client)
        assert ackedTo(client, 1, tid) == data(2, pattern(10_000))


def test_TC56_manyOptionsAtOnce() -> None:
    """blksize 8, tsize, timeout and windowsize together: one OACK with all four, longer than a block."""
    with TftpStage() as stage:
        packet = stage.ask(rrq(blksize=8, tsize=0, timeout=3, windowsize=4))[1]
        assert packet == Oack((("blksize", "8"), ("tsize", "1300"), ("timeout", "3"), ("windowsize", "4")))


def test_TC57_optionsNamedLikeFields() -> None:
    """An option called filename, or mode, is ignored: the first fields count."""
    with TftpStage() as stage:
        assert stage.ask(rrq(filename="/etc/passwd", mode_="x").replace(b"mode_", b"mode"))[1] == data(1)


@pytest.mark.parametrize(
    "tail",
    [b"secret\0", b"blksize\x001024\0\0\0", b"blksize\x001024\0tsize", b"\0" * 200, b"blksize\x001024\0\0a\0b\0"],
)
def test_TC58_oddTails(tail: bytes) -> None:
    """A bare string, zero padding, an unterminated tail: the request is served."""
    with TftpStage() as stage:
        packet = stage.ask(rrq() + tail)[1]
        assert packet == (Oack((("blksize", "1024"),)) if b"1024" in tail else data(1))


def test_TC59_aLazyConfirmation() -> None:
    """ACK 0 arrives 20 s after the OACK: DATA 1."""
    with TftpStage() as stage:
        client, _, tid = stage.ask(rrq(tsize=0, blksize=1408))
        stage.network.advance(20)
        client.take()
        assert ackedTo(client, 0, tid) == data(1, blksize=1408)


def test_TC64_anAckWithAFifthOctet() -> None:
    """What follows the fourth octet of an ACK is ignored."""
    with TftpStage() as stage:
        client, _, tid = stage.ask(rrq())
        client.send(buildAck(1) + b"\x08", tid)
        assert hear(client) == data(2)


@pytest.mark.slow
def test_lockstepOverTheWrapIsNeverAnOack(long: bytes) -> None:
    """Past the wrap a lost block 65536, number 0, is repeated as the block that it is."""
    with TftpStage({"f": long}) as stage:
        client = stage.client()
        client.send(rrq(blksize=8, windowsize=64), SERVER)
        tid = client.expect().source
        for number in range(0, 65537, 64):
            say(client, number & 0xFFFF, tid)
            stage.network.advance(0.001)
            came = client.take()
            assert len(came) == min(64, 65541 - number)
        stage.network.advance(3)
        again = client.take()
        assert {letter.datagram[:4] for letter in again} == {b"\0\3\0" + bytes((number,)) for number in range(1, 6)}


def test_theRequestIsReadWhole() -> None:
    """2048 octets of request are read, 2049 are refused; no option gets lost in a long name."""
    with TftpStage({"n" * 200: b"x"}) as stage:
        request = rrq("n" * 200, blksize=1024)
        packet = stage.ask(request + b"\0" * (2048 - len(request)))[1]
        assert packet == Oack((("blksize", "1024"),))
        assert stage.ask(rrq("n" * 2040), stage.client(2001))[1].code == 4
