"""
Netascii: octets, content and uploads.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from zope.interface import directlyProvides, implementer
from zope.interface.verify import verifyObject

from castd.errors import ContentChanged, Full, Unanswered
from castd.files.netascii import (
    AT_ONCE,
    MOST_MEASURED,
    PIECE,
    Abandoned,
    NetasciiContent,
    NetasciiConverter,
    NetasciiUpload,
    measure,
    measureAtHand,
)
from castd.interfaces import IAwaitedContent, IContent, IUpload
from castd.packets.netascii import Decoder, encode, growth
from tests.support.disks import result

VECTORS = json.loads((Path(__file__).parent / "vectors" / "tftp.json").read_text())
LINES = st.lists(st.sampled_from([b"\r", b"\n", b"\0", b"a", b"bc", b"\xff"]), max_size=30).map(b"".join)


@implementer(IContent)
class Octets:
    """Content in memory, which may be made to change, and knows whether it was closed and how often it was read."""

    def __init__(self, data: bytes, version: object = "v1") -> None:
        self.name, self.size, self.version, self.data = "f", len(data), version, data
        self.closed = self.reads = 0

    def read(self, offset: int, length: int) -> memoryview:
        self.reads += 1
        length = min(length, self.size - offset)
        if len(self.data) < offset + length:
            raise ContentChanged()
        return memoryview(self.data)[offset : offset + length]

    def readInto(self, buffers: Any, offset: int) -> None:
        raise AssertionError("nobody asks for this")

    def close(self) -> None:
        self.closed += 1


@implementer(IUpload)
class Kept:
    """An upload that keeps everything, or is full."""

    def __init__(self, room: int = 1000) -> None:
        self.data, self.room, self.state = b"", room, "open"

    def write(self, data: bytes) -> None:
        self.data += data
        if len(self.data) > self.room:
            raise Full()

    def commit(self) -> Deferred[None]:
        self.state = "kept"
        return succeed(None)

    def abort(self) -> None:
        self.state = "aborted"


def converted(data: bytes) -> NetasciiContent:
    """The content as it is on the wire."""
    content = Octets(data)
    return NetasciiContent(content, measure(content))


def decoded(*pieces: bytes) -> bytes:
    """What is stored of an upload that arrives in these pieces."""
    decoder = Decoder()
    return b"".join([*map(decoder.feed, pieces), decoder.finish()])


@pytest.mark.parametrize("vector", VECTORS["netascii_read"], ids=lambda vector: vector["id"])
def test_readVectors(vector: dict[str, Any]) -> None:
    """A file's octets become those of the reference, cut into its blocks, pairs split at their edges."""
    native, wire = bytes.fromhex(vector["native_hex"]), bytes.fromhex(vector["netascii_hex"])
    assert encode(native) == wire
    content = converted(native)
    assert content.size == len(wire)
    step = vector["blksize"]
    blocks = [content.read(offset, step).hex() for offset in range(0, content.size + 1, step)]
    assert blocks == vector["blocks_hex"]


@pytest.mark.parametrize("vector", VECTORS["netascii_write"], ids=lambda vector: vector["id"])
def test_writeVectors(vector: dict[str, Any]) -> None:
    """What arrives is stored as the reference says, be it in one piece or octet by octet."""
    wire, native = bytes.fromhex(vector["received_hex"]), bytes.fromhex(vector["stored_hex"])
    assert decoded(wire) == native
    assert decoded(*(wire[n : n + 1] for n in range(len(wire)))) == native


@given(LINES, st.data())
def test_roundTrip(native: bytes, data: st.DataObject) -> None:
    """Any file comes back as it was, wherever the stream between is cut."""
    wire = encode(native)
    assert len(wire) == len(native) + growth(native)
    cut = data.draw(st.integers(0, len(wire)))
    assert decoded(wire[:cut], wire[cut:]) == native


@given(LINES, st.lists(st.integers(0, 60)))
def test_anyStream(wire: bytes, cuts: list[int]) -> None:
    """What is stored does not depend on how the stream was cut, and no octet but halves of pairs is lost."""
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    pieces = [wire[start:end] for start, end in pairwise(edges)]
    assert decoded(*pieces) == decoded(wire)
    assert len(decoded(wire)) == len(wire) - wire.count(b"\r\n") - wire.count(b"\r\0")


@implementer(IAwaitedContent)
class Cached(Octets):
    """Content of which all that is asked for is at hand, or nothing."""

    atHand = True

    def read(self, offset: int, length: int) -> memoryview:
        raise AssertionError("this might wait for the disk")

    def readInto(self, buffers: Any, offset: int) -> None:
        for buffer in buffers:
            if offset + len(buffer) > self.size:
                raise ContentChanged()
            buffer[:] = super().read(offset, len(buffer))
            offset += len(buffer)

    def readAtHand(self, buffers: Any, offset: int) -> bool:
        if self.atHand:
            self.readInto(buffers, offset)
        return self.atHand

    def fetch(self, buffers: Any, offset: int) -> Deferred[None]:
        return maybeDeferred(self.readInto, buffers, offset)

    def inBackground(self, function: Any) -> Deferred[Any]:
        return succeed(("in the background", function()))


@pytest.mark.parametrize("atHand", [True, False])
def test_piecesOfTheDisk(atHand: bool) -> None:
    """Each piece of a large file comes from its own place, be it in memory or fetched, and no more is asked for."""
    native = b"".join(b"line %d\n" % number for number in range(3 * PIECE // 10))
    content = Cached(native)
    index = measureAtHand(content)
    assert index == measure(Octets(native))
    found, wire = NetasciiContent(content, index), encode(native)
    plain = converted(native)
    content.atHand = atHand
    assert found.size == len(wire)
    for offset in range(0, len(wire), PIECE - 1):
        buffer = bytearray(min(PIECE - 1, len(wire) - offset))
        assert found.readAtHand([buffer], offset) or not atHand
        if not atHand:
            found.fetch([buffer], offset)
        assert buffer == wire[offset : offset + len(buffer)]
        again = bytearray(len(buffer))
        assert plain.readAtHand([again], offset)
        assert again == buffer
    assert result(found.inBackground(lambda: 1)) == ("in the background", 1)
    assert result(converted(b"octets").inBackground(lambda: 1)) == 1


@given(LINES, st.integers(0, 80), st.integers(0, 80))
def test_anyPart(unit: bytes, offset: int, length: int) -> None:
    """Any part of a converted file is that part of the converted octets, also around the edges of pieces."""
    native = unit * (2 * PIECE // max(1, len(unit)) + 1)
    wire, content = encode(native), converted(native)
    assert content.size == len(wire)
    for base in (0, content.size - 50, *content._index[1:]):
        begin = max(0, base + offset - 40)
        assert content.read(begin, length) == wire[begin : begin + length]


def test_content() -> None:
    """Converted content is content: it has the name, a version of its own, and is closed with what it is made of."""
    octets = Octets(b"a\nb")
    content = NetasciiContent(octets, measure(octets))
    assert verifyObject(IContent, content)
    assert (content.name, content.size) == ("f", 4)
    assert content.version != octets.version
    buffers = [bytearray(1), bytearray(2)]
    content.readInto(buffers, 1)
    assert buffers == [b"\r", b"\nb"]
    with pytest.raises(ContentChanged):
        content.readInto([bytearray(2), bytearray(1)], 2)
    content.close()
    assert octets.closed == 1


def test_blocksOfOnePiece() -> None:
    """Blocks asked for one after the other read the file once, not once per block."""
    octets = Octets(b"line\n" * 10000)
    content = NetasciiContent(octets, measure(octets))
    octets.reads = 0
    for offset in range(0, content.size, 512):
        content.read(offset, 512)
    assert octets.reads == 1


def test_changed() -> None:
    """A file that shrinks, or is written to so that lengths differ, is ContentChanged."""
    octets = Octets(b"a\n" * PIECE)
    content = NetasciiContent(octets, measure(octets))
    octets.data = b"aa" * PIECE
    with pytest.raises(ContentChanged):
        content.read(0, 10)
    octets.data = b"a\n"
    with pytest.raises(ContentChanged):
        content.read(PIECE, 10)


class Later:
    """A thread that runs when it is told to."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Deferred[Any], Any, Any]] = []

    def __call__(self, job: Any, *args: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.jobs.append((done, job, args))
        return done

    def run(self) -> None:
        for done, job, args in self.jobs:
            try:
                result = job(*args)
            except Exception:
                done.errback()
            else:
                done.callback(result)
        self.jobs.clear()


def test_convertSmall() -> None:
    """A small file is converted at once, without a thread."""
    thread, results = Later(), list[Any]()
    NetasciiConverter(thread).convert(Octets(b"\n")).addCallback(results.append)
    assert results[0].read(0, 10) == b"\r\n"
    assert thread.jobs == []


def test_convertLarge() -> None:
    """A large file is measured in a thread, once for all who ask; each gets content of his own."""
    thread, results = Later(), list[Any]()
    converter = NetasciiConverter(thread)
    octets = [Octets(b"\n" * (AT_ONCE + 1)) for _ in range(3)]
    for each in octets[:2]:
        converter.convert(each).addCallback(results.append)
    assert (len(thread.jobs), results) == (1, [])
    thread.run()
    converter.convert(octets[2]).addCallback(results.append)
    assert [result.size for result in results] == [2 * AT_ONCE + 2] * 3
    assert thread.jobs == []
    for each in results:
        each.close()
    assert [each.closed for each in octets] == [1, 1, 1]


def test_convertFails() -> None:
    """A file that changes while it is measured fails for all who wait; contents are closed, the next may try."""
    thread, errors = Later(), list[Any]()
    converter = NetasciiConverter(thread, atOnce=4)
    octets = [Octets(b"\n" * 8), Octets(b"\n" * 8)]
    for each in octets:
        converter.convert(each).addErrback(errors.append)
    octets[0].data = b""
    thread.run()
    assert [error.type for error in errors] == [ContentChanged] * 2
    assert [each.closed for each in octets] == [1, 1]
    converter.convert(octets[1]).addErrback(errors.append)
    assert len(thread.jobs) == 1


@pytest.mark.parametrize("fails", ["readAtHand", "inBackground"])
def test_convertRaises(fails: str) -> None:
    """A content of a plugin that raises anything fails for who has asked, is closed, and may be asked for again."""

    def raises(*_: object) -> Any:
        raise ZeroDivisionError

    thread, results = Later(), list[Any]()
    converter, octets = NetasciiConverter(thread), [Awaited(b"a\n", thread) for _ in range(2)]
    setattr(octets[0], fails, raises)
    for each in octets:
        converter.convert(each).addErrback(lambda failure: failure.type).addCallback(results.append)
    assert (results, octets[0].closed) == ([ZeroDivisionError], 1)
    thread.run()
    assert results[1].size == 3
    assert (converter._measured, octets[1].closed) == ({}, 0)


def test_convertCancelled() -> None:
    """Content that nobody waits for any more is closed when the thread is done with it, not under its hands."""
    thread, errors = Later(), list[Any]()
    octets = Octets(b"\n" * 8)
    waiting = NetasciiConverter(thread, atOnce=4).convert(octets).addErrback(errors.append)
    waiting.cancel()
    assert (errors[0].type, octets.closed) == (CancelledError, 0)
    thread.run()
    assert octets.closed == 1


class Awaited(Octets):
    """Content that has to be waited for, with a thread that runs in the middle of what is read, or when it is told."""

    def __init__(self, data: bytes, thread: Any) -> None:
        super().__init__(data)
        self.inBackground = thread
        self.fetch = self.readAtHand = lambda *_: False
        self.before: Any = bool
        directlyProvides(self, IAwaitedContent)

    def read(self, offset: int, length: int) -> memoryview:
        self.before(offset)
        return super().read(offset, length)


def test_convertAwaited() -> None:
    """Content that has to be waited for is measured in its own background, however small it is."""
    mine, others, results = Later(), Later(), list[Any]()
    NetasciiConverter(others).convert(Awaited(b"a\n", mine)).addCallback(results.append)
    assert (len(mine.jobs), others.jobs, results) == (1, [], [])
    mine.run()
    assert results[0].size == 3


def test_measuringStops() -> None:
    """A measurement stops when nobody waits for it any more, and the next request goes on where it was."""
    thread, errors, results = Later(), list[Any](), list[Any]()
    converter, octets = NetasciiConverter(), Awaited(b"\n" * (4 * PIECE), thread)
    waiting = converter.convert(octets).addErrback(errors.append)
    octets.before = lambda offset: waiting.cancel() if offset == 2 * PIECE else None
    thread.run()
    assert (len(errors), octets.reads, octets.closed) == (1, 3, 1)
    again = Awaited(octets.data, thread)
    converter.convert(again).addCallback(results.append)
    thread.run()
    assert (results[0].size, again.reads) == (8 * PIECE, 1)


def test_measuringGoesOn() -> None:
    """Who asks while a measurement stops, as those before have gone, is answered all the same."""
    thread, results = Later(), list[Any]()
    converter = NetasciiConverter()
    octets, other = (Awaited(b"\n" * (4 * PIECE), thread) for _ in range(2))
    waiting = converter.convert(octets).addErrback(lambda _: None)
    waiting.cancel()
    # The thread has seen that nobody waits; then another asks.
    (done, job, _), thread.jobs = thread.jobs[0], []
    with pytest.raises(Abandoned):
        job()
    converter.convert(other).addCallback(results.append)
    done.errback(Abandoned())
    thread.run()
    assert results[0].size == 8 * PIECE
    assert octets.closed == 1


def test_tooManyMeasured() -> None:
    """So many files are measured at once; beyond that a request is dropped, and its content closed."""
    thread, errors = Later(), list[Any]()
    converter = NetasciiConverter(thread, atOnce=4)
    for number in range(MOST_MEASURED):
        converter.convert(Octets(b"\n" * 8, f"f{number}"))
    more = Octets(b"\n" * 8, "more")
    converter.convert(more).addErrback(errors.append)
    assert (errors[0].type, more.closed) == (Unanswered, 1)


def test_convertRemembers() -> None:
    """Only so many measures are remembered, the latest used of them."""
    converter = NetasciiConverter(atOnce=100, remembered=2)
    contents = {name: Octets(b"\n", name) for name in "abc"}
    for name in "abac":
        converter.convert(contents[name])
    for each in contents.values():
        each.reads = 0
    for name in "ab":
        converter.convert(contents[name])
    assert (contents["a"].reads, contents["b"].reads) == (0, 1)


def test_native() -> None:
    """An upload in netascii is kept as native text, the last CR with it."""
    kept = Kept()
    upload = NetasciiUpload(kept)
    assert verifyObject(IUpload, upload)
    for piece in (b"a\r", b"\nb\r\0", b"c\r"):
        upload.write(piece)
    assert kept.data == b"a\nb\rc"
    upload.commit()
    assert (kept.data, kept.state) == (b"a\nb\rc\r", "kept")


def test_nativeFull() -> None:
    """Where the very last octet is one too many the commit fails; an abort is passed on."""
    kept, errors = Kept(room=1), list[Any]()
    upload = NetasciiUpload(kept)
    upload.write(b"a\r")
    upload.commit().addErrback(errors.append)
    assert (errors[0].type, kept.state) == (Full, "open")
    upload.abort()
    assert kept.state == "aborted"
