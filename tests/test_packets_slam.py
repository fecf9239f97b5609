"""
SLAM's packets against the recorded vectors, and against whatever octets hypothesis can think of.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castd.errors import WireError
from castd.packets import slam

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "slam.json").read_text())


def each(key: str, name: str = "id") -> Any:
    """Parametrize over one table of the vectors."""
    return pytest.mark.parametrize(
        "vector",
        VECTORS[key],
        ids=lambda vector: str(vector.get(name, vector.get("hex"))),
    )


@each("varint", "value")
def testIntegers(vector: dict[str, Any]) -> None:
    """Every recorded integer is built and read as both clients do."""
    wire = bytes.fromhex(vector["hex"])
    assert slam.pack(vector["value"]) == wire
    assert slam.unpack(wire, 0) == (vector["value"], vector["length"])
    assert (vector["value"] <= slam.LARGEST_32) == vector["decodes_on_32bit_client"]


@each("varint_ranges", "length")
def testIntegerRanges(vector: dict[str, Any]) -> None:
    """The edges of each length have that length and begin with the recorded octet."""
    for end in ("min", "max"):
        wire = slam.pack(vector[f"canonical_{end}"])
        assert len(wire) == vector["length"]
        assert int(vector["first_byte_min"], 16) <= wire[0] <= int(vector["first_byte_max"], 16)


@each("varint_non_canonical_accepted")
def testLongForms(vector: dict[str, Any]) -> None:
    """Integers longer than needed are read."""
    assert slam.unpack(bytes.fromhex(vector["hex"]), 0)[0] == vector["value"]


@each("varint_reject")
def testUnreadableIntegers(vector: dict[str, Any]) -> None:
    """What is no integer is refused, and nothing beyond the end is read."""
    with pytest.raises(WireError):
        slam.unpack(bytes.fromhex(vector["hex"]), 0)


@pytest.mark.parametrize("value", [-1, slam.LARGEST + 1])
def testIntegersOutOfRange(value: int) -> None:
    """A number that does not fit is an error of ours, never a wrong length on the wire."""
    with pytest.raises(ValueError, match="53 bits"):
        slam.pack(value)


@each("nack")
def testLists(vector: dict[str, Any]) -> None:
    """Every recorded list is read as the runs it stands for."""
    missing = slam.parseList(bytes.fromhex(vector["hex"]))
    wanted = tuple(range(run["first"], run["first"] + run["count"]) for run in vector["missing_ranges"])
    assert missing == wanted
    if "num_blocks" in vector and vector["style"].startswith("etherboot"):
        assert slam.buildList(wanted, vector["num_blocks"]) == built(vector)


def built(vector: dict[str, Any]) -> bytes:
    """The recorded octets, with the last received run, which Etherboot writes only where blocks follow the last gap."""
    runs = b"".join(map(slam.pack, vector["runs"]))
    rest = vector["num_blocks"] - sum(vector["runs"])
    return runs + (slam.pack(rest) if rest else b"") + b"\0"


@each("disconnect")
def testDisconnect(vector: dict[str, Any]) -> None:
    """Whatever begins with NUL is a disconnect."""
    assert slam.parseList(bytes.fromhex(vector["hex"])) is None


@each("data")
def testData(vector: dict[str, Any]) -> None:
    """Every recorded block is built and read octet for octet."""
    fields = vector["fields"]
    header = slam.Header(fields["transaction"], fields["total_bytes"], fields["block_size"])
    assert header.count == vector["num_blocks"]
    assert header.build().hex() == vector["header_hex"]
    assert slam.pack(fields["packet"]).hex() == vector["packet_hex"]
    if "hex" in vector:
        wire = bytes.fromhex(vector["hex"])
        data = slam.parseData(wire)
        assert (data.header, data.number, len(data.payload)) == (
            header,
            fields["packet"],
            vector["payload_length"],
        )
        assert data.build() == wire


@each("status_request")
def testStatusRequests(vector: dict[str, Any]) -> None:
    """A status request is a header and nothing else; one of an empty file is never taken for one."""
    wire, fields = bytes.fromhex(vector["hex"]), vector["fields"]
    header = slam.Header(fields["transaction"], fields["total_bytes"], fields["block_size"])
    assert header.build() == wire
    if header.size:
        assert slam.parseHeader(wire) == (header, len(wire))
    else:
        with pytest.raises(WireError):
            slam.parseHeader(wire)


@each("invalid_to_client")
def testWhatAClientRefuses(vector: dict[str, Any]) -> None:
    """None of the datagrams that hurt clients can be read as data of the group."""
    with pytest.raises(WireError):
        slam.parseData(bytes.fromhex(vector["hex"]))


@each("geometry", "total_bytes")
def testGeometry(vector: dict[str, Any]) -> None:
    """The number of blocks is the size divided, rounded up."""
    assert slam.Header(1, vector["total_bytes"], vector["block_size"]).count == vector["num_blocks"]


@pytest.mark.parametrize("wire", ["", "ff", "e0e0e0e0", "20" * 1473])
def testUnreadableLists(wire: str) -> None:
    """What does not begin with an integer, or is longer than any client's list, is nobody's list."""
    with pytest.raises(WireError):
        slam.parseList(bytes.fromhex(wire))


def testListTurnsToRubbish() -> None:
    """A list counts up to where it can be read."""
    assert slam.parseList(bytes.fromhex("2021ff")) == (range(1),)
    assert slam.parseList(bytes.fromhex("202122ff00")) == (range(1),)


def testTouchingRuns() -> None:
    """Runs without a received block between them are one run."""
    assert slam.parseList(bytes.fromhex("2021202200")) == (range(3),)


def testClip() -> None:
    """Of what is asked for, that remains which the file has."""
    assert slam.clip((range(2), range(3, 900), range(900, 901)), 5) == (
        range(2),
        range(3, 5),
    )


def testListThatDoesNotFit() -> None:
    """Of more runs than fit, those at the end are left out, as Etherboot does."""
    missing = tuple(range(number, number + 1) for number in range(1, 4000, 2))
    wire = slam.buildList(missing, 4000)
    assert len(wire) == 1471
    assert slam.parseList(wire) == missing[:735]


@given(st.integers(0, slam.LARGEST))
def testIntegerRoundTrip(value: int) -> None:
    """Every number comes back, in the fewest octets that hold it."""
    wire = slam.pack(value)
    assert slam.unpack(wire, 0) == (value, len(wire))
    assert len(wire) == 1 or value >= 1 << 8 * (len(wire) - 1) - 3


@given(st.sets(st.integers(0, 300)), st.integers(0, 400))
def testListRoundTrip(numbers: set[int], end: int) -> None:
    """A list that fits is read as what was listed."""
    runs: list[range] = []
    for number in sorted(numbers):
        joined = bool(runs) and runs[-1].stop == number
        runs[-1:] = [range(runs[-1].start, number + 1)] if joined else [*runs[-1:], range(number, number + 1)]
    assert slam.parseList(slam.buildList(runs, end)) == tuple(runs)


@given(st.binary(max_size=1600))
def testAnyListOctets(datagram: bytes) -> None:
    """Any octets are runs in ascending order, a disconnect, or a WireError; nothing else."""
    try:
        missing = slam.parseList(datagram)
    except WireError:
        return
    for before, after in zip(missing or (), (missing or ())[1:], strict=False):
        assert before.stop < after.start
    assert all(missing or ())
    for run in slam.clip(missing or (), 100):
        assert 0 <= run.start < run.stop <= 100


@given(st.binary(max_size=64))
def testAnyDataOctets(datagram: bytes) -> None:
    """Any octets are a block of their own header, or a WireError."""
    try:
        data = slam.parseData(datagram)
    except WireError:
        return
    assert data.number < data.header.count
    assert 0 < len(data.payload) <= data.header.blocksize


@given(st.integers(0, slam.LARGEST), st.integers(1, 4000), st.integers(1, 40), st.data())
def testDataRoundTrip(transaction: int, size: int, blocksize: int, drawn: st.DataObject) -> None:
    """Each block of any file is read as it was built."""
    header = slam.Header(transaction, size, blocksize)
    number = drawn.draw(st.integers(0, header.count - 1))
    data = slam.SlamData(header, number, bytes(min(blocksize, size - number * blocksize)))
    assert slam.parseData(data.build()) == data
