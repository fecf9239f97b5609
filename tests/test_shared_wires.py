"""
Requests that share a wire are answered as if each had one of its own.
"""

from __future__ import annotations

import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castd.dialects import tftp
from castd.dialects.tftp import MOST_WIRES, Dialect, Options
from castd.request import Local, Quirks, Request
from castd.testing.content import BytesContent

HOSTS = ["10.0.0.5", "10.0.1.5", "fd00::5"]
OPTIONS = [
    (),
    (("blksize", "1468"), ("tsize", "0")),
    (("tsize", "0"), ("BLKSIZE", "1468")),
    (("blksize", "1468"), ("windowsize", "8")),
    (("timeout", "3"), ("rollover", "1")),
]
QUIRKS = [None, Quirks(("narrow",), blksize=512), Quirks(("slow",), timeout=2.0), Quirks(("plain",), oack=False)]
#: Some bounds depend on who asks.
DIALECTS = [
    Options(),
    Options(windowsize=4, timeout=2.0),
    Options.model_validate({"caps": [{"clients": "10.0.1.0/24", "blksize": 1024}]}),
    Options.model_validate({"without": [{"clients": "10.0.0.0/24", "options": ["tsize"]}]}),
]


@st.composite
def requests(draw: st.DrawFn) -> tuple[Request, BytesContent]:
    """A read request of some machine, and the file that it gets."""
    host = draw(st.sampled_from(HOSTS))
    local = Local("fd00::1" if ":" in host else "10.0.0.1", 69, mtu=draw(st.sampled_from([576, 1500, 9000])))
    asked = Request(
        (host, draw(st.integers(1024, 65535))),
        local,
        "file",
        draw(st.sampled_from(["octet", "netascii"])),
        options=draw(st.sampled_from(OPTIONS)),
    )
    size = draw(st.sampled_from([0, 511, 512, 70_000]))
    return asked.profiled("file", quirks) if (quirks := draw(st.sampled_from(QUIRKS))) else asked, BytesContent(
        "file", bytes(size)
    )


@pytest.mark.slow
@given(st.sampled_from(DIALECTS), st.lists(requests(), min_size=2, max_size=12))
def test_asOneOfItsOwn(options: Options, asked: list[tuple[Request, BytesContent]]) -> None:
    """Whatever was asked before, terms, policy, blocks and datagrams are those of a dialect that is asked once."""
    dialect = Dialect(options)
    for request, content in asked:
        shared, own = dialect.open(request, content), Dialect(options).open(request, content)
        assert (shared.terms, shared.policy, shared.count) == (own.terms, own.policy, own.count)
        assert list(shared.announce(request, True, False)) == list(own.announce(request, True, False))
        assert shared.requestedBlocks(request) == own.requestedBlocks(request)
        assert [shared.expectedAnswer(number) for number in range(own.count)] == [
            own.expectedAnswer(number) for number in range(own.count)
        ]
        assert [shared.header(number) for number in range(own.count)] == [
            own.header(number) for number in range(own.count)
        ]


def test_shared() -> None:
    """Machines of one type that ask for the same file share a wire; others do not."""
    dialect, content = Dialect(Options()), BytesContent("file", bytes(9000))
    local = Local("10.0.0.1", 69)
    first, again = (Request((host, 2000), local, "file", options=OPTIONS[1]) for host in HOSTS[:2])
    assert dialect.open(first, content) is dialect.open(again, content)
    assert dialect.open(first, content) is not dialect.open(first, BytesContent("file", bytes(9001)))
    other = Request(first.peer, local, "file", options=OPTIONS[2])
    assert dialect.open(other, content) is not dialect.open(first, content)


@pytest.mark.slow
def test_bounded() -> None:
    """A stranger who asks for ever other options makes the server keep no more than so many wires."""
    dialect, content = Dialect(Options()), BytesContent("file", bytes(9000))
    wires = [
        weakref.ref(
            dialect.open(
                Request(("10.0.0.5", 2000), Local("10.0.0.1", 69), "file", options=(("blksize", str(8 + number)),)),
                content,
            )
        )
        for number in range(MOST_WIRES + 50)
    ]
    gc.collect()
    assert sum(wire() is not None for wire in wires) == MOST_WIRES


def test_unknownOptions() -> None:
    """Options that nobody grants make no other wire: a stranger cannot fill the memory with them."""
    dialect, content = Dialect(Options()), BytesContent("file", bytes(9000))
    plain, odd = (
        Request(("10.0.0.5", 2000), Local("10.0.0.1", 69), "file", options=(*OPTIONS[1], *more))
        for more in ((), tuple((f"odd{number}", "x" * 100) for number in range(10)))
    )
    assert dialect.open(odd, content) is dialect.open(plain, content)


def test_goneWithTheirDialect() -> None:
    """A reload leaves nothing of the old dialect, without the collector's help."""
    gc.disable()
    try:
        dialect = tftp.Dialect(Options())
        wire = weakref.ref(
            dialect.open(Request(("10.0.0.5", 2000), Local("10.0.0.1", 69), "file"), BytesContent("file", b"x"))
        )
        assert wire() is not None
        del dialect
        assert wire() is None
    finally:
        gc.enable()
