"""
The shortest retransmission timeout is one constant, wherever one is measured.
"""

import pytest

from castd.cast.policy import MIN_RTO, AdaptiveTimeout, RetransmitPolicy
from castd.cli.options import TransferOptions
from castd.dialects import tftp
from castd.dialects._group import groupPolicy
from castd.receive.tftp import CLIENT_POLICY
from castd.request import Local, Request
from castd.testing.content import BytesContent


def ofTheCommand() -> RetransmitPolicy:
    return TransferOptions(
        blksize=None, windowsize=None, timeout=1.0, retries=5, sha256=None, netascii=False, quiet=True, json=False
    ).policy()


@pytest.mark.parametrize(
    "policy",
    [
        CLIENT_POLICY,
        ofTheCommand(),
        tftp.Dialect(tftp.Options())
        .open(Request(("10.0.0.5", 2000), Local("10.0.0.1", 69), "x"), BytesContent("x", b"x"))
        .policy,
        groupPolicy(0.2, 3.0, 5.0),
    ],
    ids=["programs", "castd get", "tftp", "groups"],
)
def test_oneFloor(policy: RetransmitPolicy) -> None:
    """Uploads, downloads and groups repeat no sooner than after MIN_RTO, the clients of castd among them."""
    assert isinstance(policy.repeat, AdaptiveTimeout)
    assert policy.repeat.floor == MIN_RTO
