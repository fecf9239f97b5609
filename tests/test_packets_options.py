"""
What is agreed on: every negotiation vector as data, and what holds for whatever a client may ask.
"""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castd.packets.options import _RULES, OptionLimits, negotiate
from castd.packets.tftp import buildOack, parseRequest
from castd.request import Local, Request
from tests.support.vectors import vectors

SERVER = Local("10.0.0.1", 69)
CLIENT = ("10.0.0.9", 2000)
VECTORS = vectors("tftp", "negotiation")
#: The others are refusals: whether a request is served at all is settled before anything is negotiated.
AGREED = [param for param in VECTORS if param.values[0]["reply_kind"] != "ERROR"]


def asked(vector: dict[str, Any]) -> Request:
    """The vector's request, read."""
    ask = parseRequest(bytes.fromhex(vector["request_hex"]))
    assert ask is not None
    mode = {"binary": "octet"}.get(ask.mode.lower(), ask.mode.lower())
    return Request(CLIENT, SERVER, ask.name, mode, ask.write, ask.options)


@pytest.mark.parametrize("vector", AGREED)
def test_negotiationVectors(vector: dict[str, Any]) -> None:
    """The OACK is the vector's to the octet, or there is none, and what is in effect then is what the vector states."""
    request, context = asked(vector), vector["context"]
    caps = OptionLimits(blksize=context["blksize_cap"], windowsize=context["windowsize_cap"])
    terms = negotiate(request, caps, None if request.write else context["size"])
    assert (buildOack(terms.answer).hex() if terms.answer else None) == (
        vector["reply_hex"] if vector["reply_kind"] == "OACK" else None
    )
    effective = vector["effective"]
    assert request.mode == effective["mode"]
    assert terms.blksize == effective["blksize"]
    assert terms.windowsize == effective["windowsize"]
    assert terms.rollover == effective["rollover"]
    assert terms.timeout == effective["timeout"]


def test_everyVectorIsUsed() -> None:
    """Those left out above are refusals, which the conformance tests replay at the listener."""
    assert len(VECTORS) - len(AGREED) == sum(param.values[0]["reply_kind"] == "ERROR" for param in VECTORS)
    assert len(AGREED) > 40


#: The least and the greatest value of each option, and what is granted beyond the greatest: a block size is clamped,
#: all else is left out.
EDGES = [
    ("blksize", 8, 65464, "65464"),
    ("blksize2", 8, 32768, "32768"),
    ("timeout", 1, 255, None),
    ("utimeout", 10_000, 255_000_000, None),
    ("windowsize", 1, 65535, None),
    ("rollover", 0, 1, None),
]


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize(("name", "least", "greatest", "clamped"), EDGES)
def test_theEdgesOfEachOption(name: str, least: int, greatest: int, clamped: str | None, write: bool) -> None:
    """The least and the greatest value are granted as they are; the next one beyond is left out, or clamped."""

    def granted(value: int) -> str | None:
        request = Request(CLIENT, SERVER, "f", write=write, options=((name, str(value)),))
        answer = negotiate(request, OptionLimits(65464, 65535), None if write else 1)
        return dict(answer.answer).get(name)

    assert [granted(least), granted(greatest)] == [str(least), str(greatest)]
    assert [granted(least - 1), granted(greatest + 1)] == [None, clamped]


@pytest.mark.parametrize("value", ["", "-1", "+1", " 1", "0x1", "1.0", "1" * 21, "\xb2"])
def test_tsizeOfAWrite(value: str) -> None:
    """A size of an upload that is no number is left out, and so no size is known."""
    agreed = negotiate(Request(CLIENT, SERVER, "f", write=True, options=(("tsize", value),)), OptionLimits())
    assert (agreed.answer, agreed.tsize) == ((), None)


@pytest.mark.parametrize("option", [("BLKSIZE", "64"), ("windowsize", "4"), ("timeout", "9"), ("tsize", "0")])
def test_refusedOptions(option: tuple[str, str]) -> None:
    """What the operator refuses is left out, however it is spelled, and nothing else is."""
    asked = (option, ("rollover", "1"))
    for refused, answer in ((option[0].lower(), ["rollover"]), ("rollover", [option[0]])):
        request = Request(CLIENT, SERVER, "f", options=asked)
        agreed = negotiate(request, OptionLimits(refuse=frozenset((refused,))), 1000)
        assert [name for name, _ in agreed.answer] == answer


def test_tsizeThatIsNotKnown() -> None:
    """An upload that is announced with 0 octets, as curl does where it does not know them, may be of any size."""
    agreed = negotiate(Request(CLIENT, SERVER, "f", write=True, options=(("tsize", "0"),)), OptionLimits())
    assert (agreed.answer, agreed.tsize) == ((("tsize", "0"),), None)


#: Options as clients send them and as nobody should: known names in any case, and values near every border.
known = st.sampled_from([*_RULES, "BLKSIZE", "WindowSize", "nosuch"])
values = st.sampled_from(
    ["", "0", "1", "7", "8", "511", "1468", "65464", "65465", "65536", "-1", " 8", "8 ", "0x10", "9" * 21]
)
options = st.lists(
    st.tuples(known, values | st.integers(0, 1 << 66).map(str) | st.text(max_size=5)),
    max_size=8,
    unique_by=lambda option: option[0].lower(),
)
caps = st.builds(
    OptionLimits, st.integers(8, 65464), st.integers(1, 64), st.frozensets(st.sampled_from(["blksize", "tsize"]))
)


@given(options, caps, st.none() | st.integers(0, 1 << 45), st.sampled_from(["octet", "netascii"]))
def test_whateverIsAsked(requested: list[tuple[str, str]], caps: OptionLimits, size: int | None, mode: str) -> None:
    """Nothing is granted that was not asked or is above wish or cap, and what stands in the OACK is in effect."""
    request = Request(CLIENT, SERVER, "f", mode, size is None, tuple(requested))
    terms = negotiate(request, caps, size)
    answer = {name.lower(): value for name, value in terms.answer}
    assert len(answer) == len(terms.answer)
    assert {name for name, _ in terms.answer} <= {name for name, _ in requested}
    assert not answer.keys() & set(caps.refuse)
    assert len(buildOack(terms.answer)) <= 512
    wish = {name.lower(): value for name, value in requested}
    for name, least, cap in (
        ("blksize", 8, caps.blksize),
        ("blksize2", 8, caps.blksize),
        ("windowsize", 1, caps.windowsize),
    ):
        if name in answer:
            assert least <= int(answer[name]) <= min(int(wish[name]), cap)
    assert str(terms.blksize) == answer.get("blksize", answer.get("blksize2", "512"))
    assert str(terms.windowsize) == answer.get("windowsize", "1")
    assert not {"blksize", "blksize2"} <= answer.keys()
    assert not {"timeout", "utimeout"} <= answer.keys()
    assert (terms.timeout is None) == (not {"timeout", "utimeout"} & answer.keys())
    for same in {"timeout", "utimeout", "rollover"} & answer.keys():
        assert int(answer[same]) == int(wish[same])
    if size is not None and "tsize" in answer:
        assert answer["tsize"] == str(size) != "0"
        assert mode == "octet"
    if terms.answer and {"blksize", "blksize2"} & answer.keys():
        assert terms.answer[0][0].lower() in ("blksize", "blksize2")
