"""
TFTP's packets: the vectors as data, and for all other octets that they mean something or are refused in one known way.
"""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from castd.errors import Unsupported, WireError
from castd.packets.tftp import (
    LARGEST_REQUEST,
    Ack,
    Data,
    Error,
    Oack,
    TftpRequest,
    buildAck,
    buildData,
    buildError,
    buildOack,
    buildRequest,
    dataHeader,
    dataHeaders,
    opcode,
    parse,
    parseRequest,
    unwrap,
    wire,
)
from tests.support.vectors import vectors

PACKETS = vectors("tftp", "packets")
GOOD = [param for param in PACKETS if param.values[0]["well_formed"]]
BAD = [param for param in PACKETS if not param.values[0]["well_formed"]]

#: Strings between two NULs of a request or OACK.
texts = st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=40)
names = st.binary(min_size=1, max_size=60).filter(lambda octets: 0 not in octets)
options = st.lists(
    st.tuples(texts.filter(bool), texts), max_size=6, unique_by=lambda option: option[0].encode("latin-1").lower()
).filter(lambda found: len({name.lower() for name, _ in found}) == len(found))
numbers = st.integers(0, 0xFFFF)


def meaning(decoded: dict[str, Any]) -> object:
    """What a vector says a datagram means, as castd's own value."""
    pairs = tuple((name, value) for name, value in decoded.get("options", ()))
    match decoded["kind"]:
        case "RRQ" | "WRQ":
            # Vectors have names as ISO 8859-1, castd as UTF-8 with escapes: the octets are the same.
            name = decoded["filename"].encode("latin-1").decode("utf-8", "surrogateescape")
            kept: dict[str, tuple[str, str]] = {}
            for option, value in pairs:
                kept.setdefault(option.lower(), (option, value))
            return TftpRequest(decoded["kind"] == "WRQ", name, decoded["mode"], tuple(kept.values()))
        case "DATA":
            return Data(decoded["block"], bytes.fromhex(decoded["data_hex"]))
        case "ACK":
            return Ack(decoded["block"])
        case "ERROR":
            return Error(decoded["code"], decoded["message"])
        case "OACK":
            return Oack(pairs)
    raise AssertionError(decoded["kind"])


def built(value: object) -> bytes:
    """The datagram that castd makes of a value."""
    match value:
        case TftpRequest():
            return buildRequest(value)
        case Data(number, payload):
            return buildData(number, payload)
        case Ack(number):
            return buildAck(number)
        case Error(code, text):
            return buildError(code, text)
        case Oack(options):
            return buildOack(options)
    raise AssertionError(value)


@pytest.mark.parametrize("vector", GOOD)
def test_wellFormedVectorsMeanWhatTheySay(vector: dict[str, Any]) -> None:
    """Each datagram of the vectors is read as the value that the vector states."""
    datagram = bytes.fromhex(vector["hex"])
    assert len(datagram) == vector["length"]
    read = parseRequest if vector["decoded"]["opcode"] in (1, 2) else parse
    assert read(datagram) == meaning(vector["decoded"])


@pytest.mark.parametrize("vector", GOOD)
def test_wellFormedVectorsAreBuiltToTheOctet(vector: dict[str, Any]) -> None:
    """Built again from its value a datagram is the same to the octet, unless it holds what castd never sends."""
    decoded = vector["decoded"]
    twice = len({name.lower() for name, _ in decoded.get("options", ())}) < len(decoded.get("options", ()))
    if decoded.get("ignored_strings") or decoded.get("extra_hex") or decoded.get("terminated") is False or twice:
        assert built(meaning(decoded)).hex() != vector["hex"]
    else:
        assert built(meaning(decoded)).hex() == vector["hex"]


@pytest.mark.parametrize("vector", BAD)
def test_malformedVectorsAreRefused(vector: dict[str, Any]) -> None:
    """Malformed requests are refused with ERROR 4; all else means nothing to the request port, and raises elsewhere."""
    datagram = bytes.fromhex(vector["hex"])
    with pytest.raises(WireError):
        parse(datagram)
    if len(datagram) < 2:
        with pytest.raises(WireError):
            parseRequest(datagram)
    elif opcode(datagram) in (1, 2):
        with pytest.raises(Unsupported):
            parseRequest(datagram)
    else:
        assert parseRequest(datagram) is None


@given(
    st.binary(max_size=80)
    | st.tuples(st.integers(0, 8), st.binary(max_size=80)).map(lambda it: bytes((0, it[0])) + it[1])
)
def test_anyOctetsMeanSomethingOrAreRefused(datagram: bytes) -> None:
    """Whatever the octets are, the outcome is a value, None, WireError or Unsupported; nothing else is ever raised."""
    try:
        assert isinstance(parse(datagram), Data | Ack | Error | Oack)
    except WireError:
        assert len(datagram) < 2 or datagram[:2] not in (b"\0\5", b"\0\6")
    try:
        ask = parseRequest(datagram)
    except WireError:
        assert len(datagram) < 2
    except Unsupported:
        assert datagram[:2] in (b"\0\1", b"\0\2")
    else:
        assert (ask is not None) == (datagram[:2] in (b"\0\1", b"\0\2"))


@pytest.mark.slow
@given(st.booleans(), names, texts, options)
def test_requestsComeBack(write: bool, name: bytes, mode: str, options: list[tuple[str, str]]) -> None:
    """A request that was built is read as what it was built from: no octet of the name is lost."""
    ask = TftpRequest(write, name.decode("utf-8", "surrogateescape"), mode, tuple(options))
    read = parseRequest(buildRequest(ask))
    assert read == ask
    assert read is not None
    assert read.name.encode("utf-8", "surrogateescape") == name


@given(numbers, st.binary(max_size=1500), options)
def test_transferPacketsComeBack(number: int, payload: bytes, options: list[tuple[str, str]]) -> None:
    """DATA, ACK and OACK that were built are read as what they were built from."""
    for value in (Data(number, payload), Ack(number), Oack(tuple(options))):
        assert parse(built(value)) == value
    assert buildData(number, payload) == dataHeader(number) + payload


@given(numbers, st.text(max_size=400))
@example(0x1234, " ~\x1f\x7f")
def test_errorsArePlainAndShort(code: int, text: str) -> None:
    """Whatever the text, the ERROR on the wire is printable ASCII, at most 200 octets of it, and ends with its NUL."""
    datagram = buildError(code, text)
    said = datagram[4:-1]
    assert datagram[-1] == 0
    assert len(said) <= 200
    assert all(0x20 <= octet <= 0x7E for octet in said)
    assert parse(datagram) == Error(code, said.decode())
    shown = [letter for letter in text[:200] if 0x20 <= ord(letter) <= 0x7E]
    assert [chr(octet) for octet in said if octet != 0x3F] == [letter for letter in shown if letter != "?"]


def test_theLongestRequest() -> None:
    """2048 octets are read, one more is refused."""
    longest = b"\0\1" + b"a" * (LARGEST_REQUEST - 9) + b"\0octet\0"
    assert len(longest) == LARGEST_REQUEST
    assert parseRequest(longest) is not None
    with pytest.raises(Unsupported):
        parseRequest(longest[:2] + b"a" + longest[2:])


@pytest.mark.parametrize("vector", vectors("tftp", "rollover"))
def test_rolloverVectors(vector: dict[str, int]) -> None:
    """Each block index stands on the wire as the vector says, for both ways of rolling over."""
    index = vector["block_index"]
    assert [wire(index, 0), wire(index, 1)] == [vector["wire_rollover_0"], vector["wire_rollover_1"]]


@given(st.integers(1, 1 << 40), st.integers(-64, 64), st.sampled_from([0, 1]))
@example(65536, -64, 1)
@example(131071, 64, 1)
@example(32767, 64, 0)
@example(32768, 0, 0)
def test_numbersAreUnwrappedNearWhatIsExpected(number: int, off: int, rollover: int) -> None:
    """A block number comes back whole from its 16 bits beside any number within the largest window of it."""
    assert unwrap(wire(number, rollover), max(number + off, 0), rollover) == number


@pytest.mark.slow
@given(st.integers(1, 1 << 40), st.integers(1, 300), st.sampled_from([0, 1]))
@example(1, 65536, 1)
@example(65400, 256, 0)
@example(65400, 256, 1)
@example(65535, 1, 0)
@example(65536, 200_000, 0)
@example(65536, 200_000, 1)
def test_manyHeaders(first: int, count: int, rollover: int) -> None:
    """The headers of many blocks are those of each, also where the numbers begin again."""
    each = [dataHeader(wire(number, rollover)) for number in range(first, first + count)]
    assert dataHeaders(first, count, rollover) == b"".join(each)


@pytest.mark.parametrize("rollover", [0, 1])
@pytest.mark.parametrize("near", [0, 1, 0x7FFF])
def test_zeroBeforeTheFirstLap(near: int, rollover: int) -> None:
    """Far before the numbers begin again 0 is that of the request, also where it is never one of a block's."""
    assert unwrap(0, near, rollover) == 0


@given(numbers, st.integers(0, 1 << 40), st.sampled_from([0, 1]))
@example(0, 0x8000, 1)
def test_whatIsUnwrappedStandsSoOnTheWire(short: int, near: int, rollover: int) -> None:
    """Whatever the 16 bits, the number found stands so on the wire and lies within a lap, or there is none."""
    number = unwrap(short, near, rollover)
    if number == -1:
        assert short < rollover
        assert near > 0x7FFF
    elif number > 0:
        assert wire(number, rollover) == short
        assert abs(number - near) <= 0x10000


@given(st.integers(1, 1 << 40), st.sampled_from([0, 1]))
def test_neighboursDifferOnTheWire(number: int, rollover: int) -> None:
    """No two blocks of one window look alike, and the one after 65535 is the agreed one."""
    window = [wire(number + step, rollover) for step in range(64)]
    assert len(set(window)) == 64
    for here, after in pairwise(window):
        assert after == (here + 1 if here < 0xFFFF else rollover)
