"""
The other halves: client against server, window against loss, and every datagram a stranger could send.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from castd.cast.policy import AdaptiveTimeout, FixedTimeouts, RetransmitPolicy
from castd.errors import Refused, Unsupported, WireError
from castd.interfaces import ITransferHalf
from castd.outcomes import ABORTED, DONE, SILENT
from castd.packets.options import AgreedOptions, OptionLimits
from castd.packets.tftp import (
    LARGEST_BLKSIZE,
    Data,
    buildAck,
    buildData,
    buildError,
    buildOack,
    parse,
    parseRequest,
    wire,
)
from castd.receive.blocks import BlockReceiver, BlockSender
from castd.receive.netascii import NetasciiDownload
from castd.receive.options import BadOffer, RequestedOptions
from castd.receive.retransmit import RetransmitTimer
from castd.receive.tftp import TftpDownload, TftpUpload
from castd.receive.upload import LAST_ACK_REPEATS, UploadReceiver
from tests.support.link import Accept, Link, Serve, pattern, summary

PLAIN = RequestedOptions(tsize=False)
WINDOWS = RequestedOptions(blksize=64, windowsize=8)


def download(requested: RequestedOptions = PLAIN, **more: Any) -> TftpDownload:
    return TftpDownload("f", requested, **more)


def upload(content: bytes, requested: RequestedOptions = PLAIN, **more: Any) -> TftpUpload:
    return TftpUpload("up", len(content), lambda start, length: content[start : start + length], requested, **more)


def words(datagrams: list[bytes]) -> list[str]:
    return [summary(datagram) for datagram in datagrams]


def talk(link: Link) -> list[str]:
    return [f"{'<>'[sender]} {summary(datagram)}" for sender, datagram in link.sent]


@pytest.mark.parametrize(
    "half",
    [download(), upload(b""), UploadReceiver(AgreedOptions(), RetransmitPolicy())],
    ids=["Download", "Upload", "Intake"],
)
def test_interface(half: object) -> None:
    """All three halves are driven in the same way."""
    assert verifyObject(ITransferHalf, half)


class TestDownload:
    def test_plain(self) -> None:
        """Without options a read is RRQ, then DATA and ACK by turns."""
        link = Link(download(), Serve(pattern(1300))).run()
        assert talk(link) == ["< RRQ", "> DATA 1", "< ACK 1", "> DATA 2", "< ACK 2", "> DATA 3", "< ACK 3"]
        assert link.kept[0] == pattern(1300)
        assert link.ends[0].outcome == link.ends[1].outcome == DONE

    def test_options(self) -> None:
        """An OACK is confirmed with ACK 0, its size is known from then on."""
        client = download(RequestedOptions(blksize=1000))
        link = Link(client, Serve(pattern(1300))).run()
        assert talk(link) == ["< RRQ", "> OACK", "< ACK 0", "> DATA 1", "< ACK 1", "> DATA 2", "< ACK 2"]
        assert (client.size, client.terms.blksize, client.blocks) == (1300, 1000, 2)

    @pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024])
    @pytest.mark.parametrize("requested", [PLAIN, WINDOWS], ids=["plain", "windows"])
    def test_sizes(self, size: int, requested: RequestedOptions) -> None:
        """Every size arrives, multiples of the block size and nothing at all included."""
        link = Link(download(requested), Serve(pattern(size))).run()
        assert link.kept[0] == pattern(size)
        assert link.ends[0].outcome == DONE

    def test_timeout(self) -> None:
        """Without a measurement the interval is the one that was agreed on, and six of them are waited (RFC 2349)."""
        client = download(RequestedOptions(timeout=3, tsize=False))
        client.begin(0.0)
        assert words(client.poll(1.0)) == ["RRQ"]  # so it is not known what is answered
        assert words(client.receive(buildOack((("timeout", "3"),)), 2.0)[1]) == ["ACK 0"]
        for due in (5.0, 8.0, 11.0, 14.0, 17.0):
            assert client.deadline(2.0) == due
            assert words(client.poll(due)) == ["ACK 0"]
        assert (client.deadline(17.0), client.poll(20.0), client.outcome) == (20.0, [], SILENT)

    def test_netascii(self) -> None:
        """In netascii no size is asked for; line ends are converted across blocks, and a CR at the end stays."""
        client = NetasciiDownload("f", RequestedOptions(blksize=8))
        (request,) = client.begin(0.0)
        asked = parseRequest(request)
        assert asked is not None
        assert (asked.mode, asked.options) == ("netascii", (("blksize", "8"),))
        client.receive(buildOack((("blksize", "8"),)), 0.1)
        blocks = enumerate((b"one\r\ntw\r", b"\nthree\r\0", b"end\r"), 1)
        kept = [client.receive(buildData(number, octets), number / 5)[0] for number, octets in blocks]
        assert (kept, client.complete) == ([b"one\ntw", b"\nthree\r", b"end\r"], True)

    def test_window(self) -> None:
        """One ACK per window; a block that is missing is told at once, and only once (RFC 7440)."""
        gone = iter([True])

        def lost(sender: int, datagram: bytes, ordinal: int) -> bool:
            return summary(datagram) == "DATA 3" and next(gone, False)

        server = Serve(pattern(80))
        link = Link(download(RequestedOptions(blksize=8, windowsize=4, tsize=False)), server, lost=lost).run()
        assert " ".join(talk(link)[3:]) == (
            "> DATA 1 > DATA 2 > DATA 3 > DATA 4 < ACK 2 > DATA 3 > DATA 4 > DATA 5 > DATA 6 < ACK 6 "
            "> DATA 7 > DATA 8 > DATA 9 > DATA 10 < ACK 10 > DATA 11 < ACK 11"
        )
        assert link.kept[0] == pattern(80)

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("requested", [PLAIN, WINDOWS], ids=["plain", "windows"])
    def test_bad_line(self, requested: RequestedOptions, seed: int) -> None:
        """A line that loses, doubles and reorders delivers the file unharmed, and nobody chatters."""
        server = Serve(pattern(20_000))
        link = Link(download(requested), server, loss=0.1, doubles=0.1, spread=0.01, seed=seed).run(600, 4000)
        assert link.kept[0] == pattern(20_000)
        assert link.ends[0].outcome == DONE

    @pytest.mark.slow
    @pytest.mark.parametrize(("asks", "rolls"), [(0, None), (1, None), (None, None), (None, 1)])
    def test_rollover(self, asks: int | None, rolls: int | None) -> None:
        """After block 65535 comes 0 or 1: as agreed on, else as the server does."""
        content = pattern(8 * 65540 + 3)
        server = Serve(content, rollover=rolls)
        link = Link(download(RequestedOptions(blksize=8, rollover=asks)), server, delay=0.0001).run()
        assert link.kept[0] == content
        assert link.ends[0].blocks == 65541

    @pytest.mark.slow
    def test_rollover_in_a_window(self) -> None:
        """A window may lie across the wrap, and lose blocks there."""
        content = pattern(8 * 65600)
        gone = {wire(65535), wire(65536), wire(65538)}

        def lost(sender: int, datagram: bytes, ordinal: int) -> bool:
            number = int.from_bytes(datagram[2:4], "big")
            if sender == 0 or ordinal < 60_000 or number not in gone:
                return False
            gone.remove(number)
            return True

        server = Serve(content)
        link = Link(download(RequestedOptions(blksize=8, windowsize=16)), server, delay=0.0001, lost=lost).run()
        assert link.kept[0] == content
        assert gone == set()

    @pytest.mark.parametrize(
        "granted",
        [
            (("multicast", "239.0.0.1,1758,1"),),
            (("blksize", "1001"),),
            (("blksize", "7"),),
            (("blksize", "x"),),
            (("windowsize", "5"),),
            (("windowsize", "0"),),
            (("timeout", "3"),),
            (("tsize", "-1"),),
            (("rollover", "1"),),
        ],
        ids=str,
    )
    def test_bad_offer(self, granted: tuple[tuple[str, str], ...]) -> None:
        """An OACK with what was not asked for, or with more than that, ends the transfer with ERROR 8."""
        client = download(RequestedOptions(blksize=1000, windowsize=4, timeout=2))
        client.begin(0.0)
        with pytest.raises(BadOffer) as caught:
            client.receive(buildOack(granted), 0.1)
        assert caught.value.code == 8

    def test_unknown_spelling(self) -> None:
        """Names in an OACK are read without regard to case."""
        client = download(RequestedOptions(blksize=1000))
        client.begin(0.0)
        assert words(client.receive(buildOack((("BLKSIZE", "900"),)), 0.1)[1]) == ["ACK 0"]
        assert client.terms.blksize == 900

    def test_duplicate(self) -> None:
        """A repeated block is acknowledged again, unless it has crossed the ACK: that might double all the rest."""
        client = download()
        client.begin(0.0)
        assert words(client.receive(buildData(1, bytes(512)), 0.1)[1]) == ["ACK 1"]
        assert client.receive(buildData(1, bytes(512)), 0.15) == (None, [])
        payload, answers = client.receive(buildData(1, bytes(512)), 0.4)
        assert (payload, words(answers)) == (None, ["ACK 1"])

    def test_no_apprentice(self) -> None:
        """With a server that sends a block for every ACK, one late ACK does not double the rest of the file."""

        class Apprentice(Serve):
            def receive(self, datagram: bytes, now: float) -> tuple[None, list[bytes]]:
                if self.sender is not None and summary(datagram) == f"ACK {wire(self.sender.base - 1)}":
                    return None, self.sender.window()
                return super().receive(datagram, now)

        slow = iter([False] * 9 + [True])
        client, server = download(), Apprentice(pattern(512 * 100))

        class Slow(Link):
            def _deliver(self, to: int, datagram: bytes) -> None:
                if to == 1 and next(slow, False):
                    # The server thinks for longer than it ever did: the client repeats its ACK meanwhile.
                    self._way.append((self.now + 0.2, 10**6, 1, datagram))
                    self._way.sort()
                    return
                super()._deliver(to, datagram)

        link = Slow(client, server, delay=0.005).run()
        assert link.kept[0] == pattern(512 * 100)
        assert sum(summary(datagram).startswith("DATA") for _, datagram in link.sent) < 110

    def test_oack_again(self) -> None:
        """An OACK that comes again before the first block is confirmed again, later ones are not."""
        client = download(RequestedOptions(blksize=8))
        client.begin(0.0)
        oack = buildOack((("blksize", "8"),))
        assert words(client.receive(oack, 0.01)[1]) == ["ACK 0"]
        assert words(client.receive(oack, 1.01)[1]) == ["ACK 0"]
        assert words(client.receive(buildData(1, bytes(8)), 1.02)[1]) == ["ACK 1"]
        assert client.receive(oack, 2.5) == (None, [])

    def test_silence(self) -> None:
        """A request nobody answers is repeated in growing intervals, from 1 to 8 s, and given up after 31 s."""
        client = download()
        client.begin(0.0)
        instants, now = [], 0.0
        while client.outcome is None:
            now = client.deadline(now)
            instants += [now] * len(client.poll(now))
        assert instants == [1.0, 3.0, 7.0, 15.0, 23.0]
        assert (now, client.outcome, client.repeats) == (31.0, SILENT, 5)

    def test_error(self) -> None:
        """The server's ERROR is the end; what it said is kept, and nothing is answered."""
        client = download()
        client.begin(0.0)
        assert client.receive(buildError(1, "File not found"), 0.1) == (None, [])
        assert (client.outcome, client.error.code, client.error.text) == (ABORTED, 1, "File not found")
        assert client.deadline(0.1) is None

    @pytest.mark.parametrize("first", [buildData(2, b""), buildData(0, b""), buildAck(0), b"\0\1f\0octet\0", b"\0"])
    def test_no_first_answer(self, first: bytes) -> None:
        """What cannot be a first answer is none: the request is repeated as if it had not come."""
        client = download()
        client.begin(0.0)
        with pytest.raises(WireError):
            client.receive(first, 0.1)
        assert words(client.poll(1.0)) == ["RRQ"]

    def test_oversized(self) -> None:
        """A block larger than agreed on is no block of this file."""
        client = download()
        client.begin(0.0)
        with pytest.raises(Unsupported):
            client.receive(buildData(1, bytes(513)), 0.1)

    def test_last_ack_lost(self) -> None:
        """After its last ACK the client stays for a moment, and answers the last block once more."""
        gone = iter([True])
        link = Link(
            download(),
            Serve(pattern(1300)),
            lost=lambda sender, datagram, _: summary(datagram) == "ACK 3" and next(gone, False),
        ).run()
        assert talk(link)[-4:] == ["> DATA 3", "< ACK 3", "> DATA 3", "< ACK 3"]
        assert link.ends[1].outcome == DONE

    def test_not_kept_yet(self) -> None:
        """Before the last block is kept safely it is not acknowledged, however often it comes."""
        client = download()
        client.begin(0.0)
        assert client.receive(buildData(1, b"end"), 0.1) == (b"end", [])
        assert client.receive(buildData(1, b"end"), 5.0) == (None, [])
        assert (client.complete, client.outcome, client.deadline(5.0), client.poll(99.0)) == (True, None, None, [])
        assert words(client.stored(99.0)) == ["ACK 1"]


class TestUpload:
    @pytest.mark.parametrize("size", [0, 511, 512, 1300, 1536])
    @pytest.mark.parametrize(
        "requested",
        [PLAIN, RequestedOptions(blksize=100), RequestedOptions(blksize=1024), WINDOWS],
        ids=["plain", "small blocks", "large blocks", "windows"],
    )
    def test_sizes(self, size: int, requested: RequestedOptions) -> None:
        """Every size arrives, and both sides know it."""
        link = Link(upload(pattern(size), requested), Accept()).run()
        assert link.kept[1] == pattern(size)
        assert link.ends[0].outcome == link.ends[1].outcome == DONE

    def test_plain(self) -> None:
        """Without options ACK 0 opens a write."""
        link = Link(upload(pattern(600)), Accept()).run()
        assert talk(link) == ["< WRQ", "> ACK 0", "< DATA 1", "> ACK 1", "< DATA 2", *["> ACK 2"] * 3]

    def test_tsize(self) -> None:
        """The size is told in the request, and echoed."""
        server = Accept()
        link = Link(upload(pattern(600), RequestedOptions()), server).run()
        assert parseRequest(link.sent[0][1]).options == (("tsize", "600"),)
        assert server.uploadReceiver.size == 600

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("requested", [PLAIN, WINDOWS], ids=["plain", "windows"])
    def test_bad_line(self, requested: RequestedOptions, seed: int) -> None:
        """A line that loses, doubles and reorders delivers the file unharmed, and nobody chatters."""
        link = Link(upload(pattern(20_000), requested), Accept(), loss=0.1, doubles=0.1, spread=0.01, seed=seed).run(
            600, 4000
        )
        assert link.kept[1] == pattern(20_000)
        assert link.ends[1].outcome == DONE

    @pytest.mark.slow
    @pytest.mark.parametrize("rollover", [0, 1])
    @pytest.mark.parametrize("windowsize", [1, 16])
    def test_rollover(self, rollover: int, windowsize: int) -> None:
        """Past the wrap ACK 0 acknowledges a block; the OACK does not come again."""
        content = pattern(8 * 65540 + 3)
        client = upload(content, RequestedOptions(blksize=8, windowsize=windowsize, rollover=rollover))
        link = Link(client, Accept(), delay=0.0001).run()
        assert link.kept[1] == content
        assert sum(summary(datagram) == "OACK" for _, datagram in link.sent) == 1

    def test_timeout(self) -> None:
        """Without a measurement the interval is the one that was agreed on (RFC 2349)."""
        client = upload(pattern(1300), RequestedOptions(timeout=3, tsize=False))
        client.begin(0.0)
        assert words(client.poll(1.0)) == ["WRQ"]  # so it is not known what is answered
        assert words(client.receive(buildOack((("timeout", "3"),)), 2.0)[1]) == ["DATA 1"]
        for due in (5.0, 8.0):
            assert client.deadline(2.0) == due
            assert words(client.poll(due)) == ["DATA 1"]

    def test_duplicate_ack(self) -> None:
        """A duplicate ACK causes no block (RFC 1123)."""
        client = upload(pattern(1300))
        client.begin(0.0)
        assert words(client.receive(buildAck(0), 0.1)[1]) == ["DATA 1"]
        assert client.receive(buildAck(0), 0.2) == (None, [])
        assert words(client.receive(buildAck(1), 0.3)[1]) == ["DATA 2"]
        assert client.receive(buildAck(1), 0.4) == (None, [])
        assert client.receive(buildAck(7), 0.4) == (None, [])

    def test_measured(self) -> None:
        """Once the answering time is known a lost block comes again after little more than that."""
        client = upload(pattern(5000))
        client.begin(0.0)
        for block in range(4):
            client.receive(buildAck(block), 0.01 * (block + 1))
        assert client.deadline(0.04) == pytest.approx(0.04 + 0.02, abs=0.005)
        assert words(client.poll(0.07)) == ["DATA 4"]

    def test_error(self) -> None:
        """The server's ERROR is the end."""
        client = upload(pattern(1300))
        client.begin(0.0)
        client.receive(buildError(3, "Disk full"), 0.1)
        assert (client.outcome, client.error.code) == (ABORTED, 3)

    @pytest.mark.parametrize("first", [buildAck(1), buildData(1, b""), b"\0\7"])
    def test_no_first_answer(self, first: bytes) -> None:
        """What cannot be a first answer is none."""
        client = upload(b"")
        client.begin(0.0)
        with pytest.raises(WireError):
            client.receive(first, 0.1)


class TestIntake:
    def begun(self, **agreed: Any) -> UploadReceiver:
        uploadReceiver = UploadReceiver(AgreedOptions(**agreed), RetransmitPolicy())
        uploadReceiver.begin(0.0)
        return uploadReceiver

    def test_repetition(self) -> None:
        """
        One block at a time, the last block is acknowledged each time it comes, unless it can only have crossed our ACK;
        another one is ignored.
        """
        uploadReceiver = self.begun()
        assert words(uploadReceiver.receive(buildData(1, bytes(512)), 0.1)[1]) == ["ACK 1"]
        assert uploadReceiver.receive(buildData(1, bytes(512)), 0.15) == (None, [])
        for now in (0.35, 0.6, 0.85):
            assert words(uploadReceiver.receive(buildData(1, bytes(512)), now)[1]) == ["ACK 1"]
        assert uploadReceiver.receive(buildData(5, bytes(512)), 0.9) == (None, [])

    def test_gap(self) -> None:
        """In windows a gap is told once, until a new block comes."""
        uploadReceiver = self.begun(blksize=8, windowsize=4)
        assert uploadReceiver.receive(buildData(1, bytes(8)), 0.1)[1] == []
        assert words(uploadReceiver.receive(buildData(3, bytes(8)), 0.1)[1]) == ["ACK 1"]
        assert uploadReceiver.receive(buildData(4, bytes(8)), 0.1) == (None, [])
        assert uploadReceiver.receive(buildData(1, bytes(8)), 0.1) == (None, [])
        for block in (2, 3, 4):
            assert uploadReceiver.receive(buildData(block, bytes(8)), 0.2)[1] == []
        assert words(uploadReceiver.receive(buildData(5, bytes(8)), 0.2)[1]) == ["ACK 5"]

    def test_opening_again(self) -> None:
        """ACK 0 is repeated by the timer and for a repeated request; with a block stored it is that one's."""
        uploadReceiver = self.begun()
        assert words(uploadReceiver.begin(0.5)) == words(uploadReceiver.poll(1.0)) == ["ACK 0"]
        uploadReceiver.receive(buildData(1, bytes(512)), 1.5)
        assert words(uploadReceiver.poll(1.5 + 8)) == ["ACK 1"]

    def test_oneOack(self) -> None:
        """
        An OACK is said again for a repeated request only, never by the timer: at a second one curl sends its next
        octets as block 1.  Where the first block would not show on which terms it is sent, the timer says nothing.
        """
        uploadReceiver = self.begun(blksize=8, answer=(("blksize", "8"),))
        assert uploadReceiver.poll(1.0) == []
        assert words(uploadReceiver.begin(1.5)) == ["OACK"]
        assert uploadReceiver.repeats == 0
        uploadReceiver.receive(buildData(1, bytes(8)), 2.0)
        assert words(uploadReceiver.poll(2.0 + 8)) == ["ACK 1"]
        silent = self.begun(blksize=8, answer=(("blksize", "8"),))
        now = 0.0
        while (due := silent.deadline(now)) is not None:
            now = due
            assert silent.poll(now) == []
        assert (now, silent.outcome) == (31.0, SILENT)

    def offered(self, exact: bool = True, **agreed: Any) -> UploadReceiver:
        """An intake that has said its OACK, and has withdrawn it if it does."""
        uploadReceiver = UploadReceiver(AgreedOptions(**agreed, answer=(("tsize", "1"),)), RetransmitPolicy(), exact)
        assert words(uploadReceiver.begin(0.0)) == ["OACK"]
        assert uploadReceiver.poll(1.0) == []
        self.said = words(uploadReceiver.poll(3.0))
        return uploadReceiver

    def test_withdrawn(self) -> None:
        """After two silences ACK 0 is said in its place, and from then on: to the timer and to a repeated request."""
        uploadReceiver = self.offered(blksize=1428, windowsize=4, tsize=5000)
        assert self.said == ["ACK 0"]
        assert words(uploadReceiver.begin(3.5)) == ["ACK 0"]
        assert words(uploadReceiver.poll(uploadReceiver.deadline(3.5))) == ["ACK 0"]

    def test_askedInBetween(self) -> None:
        """A client that asks again gets the OACK again, and a silence for itself."""
        uploadReceiver = UploadReceiver(
            AgreedOptions(blksize=1428, tsize=5000, answer=(("blksize", "1428"),)), RetransmitPolicy()
        )
        uploadReceiver.begin(0.0)
        assert uploadReceiver.poll(1.0) == []
        assert words(uploadReceiver.begin(2.0)) == ["OACK"]
        assert uploadReceiver.poll(3.0) == []
        assert words(uploadReceiver.poll(7.0)) == ["ACK 0"]

    def test_firstBlockWasLost(self) -> None:
        """Who had the OACK goes on with what was agreed on."""
        uploadReceiver = self.offered(blksize=1428, windowsize=2, tsize=2000)
        assert uploadReceiver.receive(buildData(1, bytes(1428)), 4.0)[1] == []
        assert uploadReceiver.receive(buildData(2, bytes(572)), 4.0)[0] == bytes(572)
        assert (uploadReceiver.complete, uploadReceiver.terms.blksize) == (True, 1428)

    def test_anotherBlock(self) -> None:
        """Who sends the second block had its OACK, so ACK 0 tells it only that the first is missing; as atftp needs."""
        uploadReceiver = self.offered(blksize=1428)
        assert self.said == []
        assert uploadReceiver.receive(buildData(2, bytes(1428)), 5.0) == (None, [])
        assert words(uploadReceiver.poll(7.0)) == words(uploadReceiver.poll(15.0)) == ["ACK 0"]
        assert uploadReceiver.receive(buildData(1, bytes(1428)), 15.1)[0] == bytes(1428)
        assert uploadReceiver.terms.blksize == 1428

    @pytest.mark.parametrize("blksize", [8, 1428])
    def test_oackWasLost(self, blksize: int) -> None:
        """Who has never seen it takes ACK 0 for a no to all options: 512 octets a block, one at a time."""
        uploadReceiver = self.offered(blksize=blksize, windowsize=2, rollover=1, tsize=700)
        payload, answers = uploadReceiver.receive(buildData(1, bytes(512)), 4.0)
        assert (payload, words(answers)) == (bytes(512), ["ACK 1"])
        assert (uploadReceiver.terms.blksize, uploadReceiver.terms.windowsize, uploadReceiver.terms.rollover) == (
            512,
            1,
            0,
        )
        assert uploadReceiver.receive(buildData(2, bytes(188)), 4.0)[0] == bytes(188)
        assert uploadReceiver.complete

    @pytest.mark.parametrize(
        ("said", "agreed"),
        [
            (["ACK 0"], {}),
            (["ACK 0"], {"tsize": 100}),
            (["ACK 0"], {"blksize": 1428, "tsize": 100}),
            (["ACK 0"], {"blksize": 1428, "tsize": 513}),
            (["ACK 0"], {"windowsize": 4, "tsize": 511}),
            ([], {"windowsize": 4}),
            ([], {"windowsize": 4, "tsize": 5000}),
            ([], {"rollover": 1, "tsize": 1 << 26}),
            ([], {"blksize": 1428}),
            ([], {"blksize": 1428, "tsize": 512}),
            ([], {"blksize": 1428, "tsize": 5000, "exact": False}),
            ([], {"blksize": 8, "tsize": 8}),
        ],
    )
    def test_shows(self, said: list[str], agreed: dict[str, Any]) -> None:
        """It is withdrawn only where the first block shows, or it does not matter, whether the client has seen it."""
        self.offered(**agreed)
        assert self.said == said

    @given(st.integers(8, 2000), st.integers(1, 4), st.integers(1, 5000), st.booleans())
    def test_eitherWay(self, blksize: int, windowsize: int, size: int, seen: bool) -> None:
        """Whatever was agreed on, and whether the OACK was lost or DATA 1: every octet arrives, and then it ends."""
        uploadReceiver = self.offered(blksize=blksize, windowsize=windowsize, tsize=size)
        if not self.said:
            return
        whole = pattern(size)
        terms = AgreedOptions(blksize=blksize, windowsize=windowsize) if seen else AgreedOptions()
        sender = BlockSender(terms, size, lambda start, length: whole[start : start + length])
        timer = RetransmitTimer(RetransmitPolicy())
        kept, now, due = b"", 4.0, sender.window(4.0)
        while not sender.done:
            assert due
            answers = []
            for datagram in due:
                payload, more = uploadReceiver.receive(datagram, now)
                kept += payload or b""
                answers += more
                if uploadReceiver.complete and not uploadReceiver.outcome and payload is not None:
                    answers += uploadReceiver.stored(now)
            due = [again for answer in answers for again in sender.acknowledged(parse(answer).number, now, timer)]
            now += 0.01
        assert kept == whole

    def test_unheard(self) -> None:
        """Who has sent nothing but a request, maybe another's forgery, gets three repetitions, then silence to 31 s."""
        uploadReceiver = self.begun()
        instants, now = [], 0.0
        while uploadReceiver.outcome is None:
            now = uploadReceiver.deadline(now)
            instants += [now] * len(uploadReceiver.poll(now))
        assert (instants, now, uploadReceiver.outcome) == ([1.0, 3.0, 7.0], 31.0, SILENT)

    def test_negotiated_interval(self) -> None:
        """With a negotiated timeout that very interval is kept, until something was measured."""
        uploadReceiver = UploadReceiver(
            AgreedOptions(timeout=3.0), RetransmitPolicy(maxRepeatsUnheard=None).withTimeout(3.0)
        )
        uploadReceiver.begin(0.0)
        instants, now = [], 0.0
        while uploadReceiver.outcome is None:
            now = uploadReceiver.deadline(now)
            instants += [now] * len(uploadReceiver.poll(now))
        assert (instants, now) == ([3.0, 6.0, 9.0, 12.0, 15.0], 18.0)

    def test_dally(self) -> None:
        """After the last ACK it stays for three intervals and answers the last block again."""
        uploadReceiver = self.begun()
        uploadReceiver.receive(buildData(1, b"all"), 0.1)
        assert words(uploadReceiver.stored(0.2)) == ["ACK 1"]
        assert words(uploadReceiver.receive(buildData(1, b"all"), 1.2)[1]) == ["ACK 1"]
        assert uploadReceiver.outcome is None
        assert uploadReceiver.poll(3.19) != []
        assert words(uploadReceiver.poll(3.2)) == []
        assert uploadReceiver.outcome == DONE

    def test_farewells(self) -> None:
        """The last ACK is said again unasked, as curl would not ask for 73 s; it counts as no repetition."""
        uploadReceiver = self.begun()
        uploadReceiver.receive(buildData(1, b"all"), 0.1)
        uploadReceiver.stored(0.5)
        instants, now = [], 0.5
        while uploadReceiver.outcome is None:
            now = uploadReceiver.deadline(now)
            for said in uploadReceiver.poll(now):
                assert words([said]) == ["ACK 1"]
                instants.append(now - 0.5)
        assert (instants, uploadReceiver.repeats, now) == (pytest.approx(LAST_ACK_REPEATS), 0, 3.5)

    def test_error_while_dallying(self) -> None:
        """Once all is stored the client's ERROR takes nothing away."""
        uploadReceiver = self.begun()
        uploadReceiver.receive(buildData(1, b"all"), 0.1)
        uploadReceiver.stored(0.2)
        uploadReceiver.receive(buildError(0, "closed"), 0.3)
        assert uploadReceiver.outcome == DONE

    @pytest.mark.parametrize(
        "datagram", [buildAck(1), buildOack((("blksize", "8"),)), b"\0\2f\0octet\0", buildData(0, b"")]
    )
    def test_not_for_a_server(self, datagram: bytes) -> None:
        """ACK, OACK, a request and a block 0 have no place in a write: counted, survived."""
        with pytest.raises(WireError):
            self.begun().receive(datagram, 0.1)

    def test_oversized(self) -> None:
        """Data of 513 octets at a block size of 512 is refused with ERROR 4."""
        with pytest.raises(Unsupported) as caught:
            self.begun().receive(buildData(1, bytes(513)), 0.1)
        assert caught.value.code == 4


class TestWait:
    def test_ignored_datagrams(self) -> None:
        """Only progress moves the timer: who sends the wrong thing often enough does not keep us from repeating."""
        client = upload(pattern(1300))
        client.begin(0.0)
        client.receive(buildAck(0), 0.1)
        due = client.deadline(0.1)
        client.receive(buildAck(9), 0.15)
        assert client.deadline(0.15) == due

    def test_tries(self) -> None:
        """Patience may ask for so many repetitions, however long that takes."""
        wait = RetransmitTimer(
            RetransmitPolicy(repeat=FixedTimeouts((2.0,)), progressTimeout=1.0, minRepeats=2, maxRepeatsUnheard=None)
        )
        wait.start(0.0)
        assert not wait.exhausted(1.5)
        wait.repeated(2.0)
        wait.repeated(4.0)
        assert wait.exhausted(4.0)

    def test_progress(self) -> None:
        """With progress repetitions are counted anew."""
        wait = RetransmitTimer(RetransmitPolicy(repeat=FixedTimeouts((1.0, 3.0)), maxRepeatsUnheard=None))
        wait.start(0.0)
        wait.repeated(1.0)
        assert wait.deadline() == 4.0
        wait.progressed(2.0)
        assert wait.deadline() == 3.0

    @pytest.mark.parametrize("repeat", [AdaptiveTimeout(), FixedTimeouts((1.0, 3.0))], ids=["adaptive", "fixed"])
    def test_exchanges(self, repeat: AdaptiveTimeout | FixedTimeouts) -> None:
        """What is noted at once of a block and its ACK is what is noted of one after the other."""
        once, twice = (RetransmitTimer(RetransmitPolicy(repeat=repeat)) for _ in range(2))
        for each in (once, twice):
            each.start(0.0)
        for now, again in ((0.5, False), (0.6, False), (0.65, True), (0.9, False), (1.0, False)):
            for each in (once, twice) if again else ():
                each.repeated(now - 0.01)
            once.exchanged(now)
            twice.progressed(now)
            twice.sent(now)
            told = [(each.deadline(), each.sentAt, each.progressAt, each.roundTrip) for each in (once, twice)]
            assert told[0] == told[1]

    def test_heeding_a_table(self) -> None:
        """A fixed table gives way to the interval that was agreed on."""
        assert RetransmitPolicy(repeat=FixedTimeouts((9.0,))).withTimeout(0.5).repeat == AdaptiveTimeout(
            first=0.5, ceiling=0.5
        )


numbers = st.one_of(st.integers(0, 12), st.integers(0, 0xFFFF))
options = st.tuples(
    st.sampled_from(["blksize", "windowsize", "tsize", "timeout", "x", ""]),
    st.sampled_from(["8", "2", "0", "99999999999", "-1", ""]),
)
datagrams = st.one_of(
    st.binary(max_size=80),
    st.builds(buildData, numbers, st.binary(max_size=9)),
    st.builds(buildAck, numbers),
    st.builds(buildError, st.integers(0, 0xFFFF), st.text(max_size=9)),
    st.builds(lambda pairs: buildOack(tuple(pairs)), st.lists(options)),
)
steps = st.lists(st.tuples(st.floats(0, 3), datagrams), max_size=40)


def half(kind: str) -> Any:
    requested = RequestedOptions(blksize=8, windowsize=2, timeout=2)
    if kind == "intake":
        return UploadReceiver(AgreedOptions(blksize=8, windowsize=2), RetransmitPolicy())
    return download(requested) if kind == "download" else upload(pattern(50), requested)


class TestAnything:
    @pytest.mark.slow
    @given(st.sampled_from(["download", "upload", "intake"]), steps)
    def test_any_datagrams(self, kind: str, steps: list[tuple[float, bytes]]) -> None:
        """Whatever comes, in any order: an answer of bounded size, WireError or Refused, and an end."""
        one, now = half(kind), 0.0
        one.begin(now)
        for pause, datagram in steps:
            now += pause
            assert len(one.poll(now)) <= 2
            try:
                payload, answers = one.receive(datagram, now)
            except (WireError, Refused):
                continue
            # Without an OACK the blocks of a download have 512 octets, whatever was wished for.
            assert len(payload or b"") <= (512 if kind == "download" else 8)
            assert len(answers) <= 2
        if one.complete and one.outcome is None:
            one.stored(now)
        for _ in range(200):
            if one.outcome is not None:
                return
            now = one.deadline(now)
            one.poll(now)
        pytest.fail("never ends")

    @given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 8)), max_size=50), st.sampled_from([1, 4]))
    def test_receiver_in_order(self, blocks: list[tuple[int, int]], windowsize: int) -> None:
        """A receiver hands out each block once, in order, whatever numbers come."""
        receiver, taken = BlockReceiver(AgreedOptions(blksize=8, windowsize=windowsize)), 0
        for number, length in blocks:
            try:
                payload, _ = receiver.receive(Data(number, bytes(length)))
            except WireError:
                assert number == 0
                continue
            if payload is not None:
                taken += 1
                assert number == taken == receiver.stored

    @pytest.mark.parametrize("windowsize", [1, 4])
    def test_receiver_ends(self, windowsize: int) -> None:
        """Behind the last block of a file there is none: it is neither kept nor acknowledged."""
        receiver = BlockReceiver(AgreedOptions(blksize=8, windowsize=windowsize))
        assert receiver.receive(Data(1, b"end")) == (b"end", False)
        assert receiver.receive(Data(2, bytes(8))) == (None, False)
        assert (receiver.stored, receiver.expected()) == (1, None)

    @given(st.integers(0, 300), st.integers(8, 64), st.integers(1, 70), st.lists(st.integers(0, 40), max_size=60))
    def test_sender(self, size: int, blksize: int, windowsize: int, acks: list[int]) -> None:
        """Whatever is acknowledged: never more than a window, never a block beyond the file or behind the last ACK."""
        content = pattern(size)
        sender = BlockSender(
            AgreedOptions(blksize, windowsize), size, lambda start, length: content[start : start + length]
        )
        assert 1 <= len(sender.window(0.0)) <= windowsize
        for ack in acks:
            before = sender.base
            sent = sender.acknowledged(ack, 0.0, RetransmitTimer(RetransmitPolicy()))
            assert sender.base >= before
            for datagram in sent:
                block = parse(datagram).number
                assert sender.base <= block < sender.base + windowsize
                assert datagram == buildData(block, content[(block - 1) * blksize : block * blksize])

    @pytest.mark.parametrize("size", [0, 5, 8, 20])
    def test_grown(self, size: int) -> None:
        """A file that grows while it is sent, as a log does, ends where it ended at the begin."""
        content = pattern(100)
        sender = BlockSender(AgreedOptions(8, 64), size, lambda start, length: content[start : start + length])
        assert b"".join(datagram[4:] for datagram in sender.window(0.0)) == content[:size]

    def test_largest_block(self) -> None:
        """The largest block size there is goes through, in a window too."""
        content = pattern(LARGEST_BLKSIZE * 5 + 1)
        client = download(RequestedOptions(blksize=LARGEST_BLKSIZE, windowsize=4))
        link = Link(client, Serve(content, OptionLimits(blksize=LARGEST_BLKSIZE))).run()
        assert link.kept[0] == content
        assert client.terms.blksize == LARGEST_BLKSIZE
