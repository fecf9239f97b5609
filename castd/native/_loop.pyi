# The types of _loop.pyx; what is documented in Python is documented there.
from collections.abc import Callable

from castd.native.steps import MasterSteps as MasterSteps
from castd.native.steps import StepLists as StepLists
from castd.native.steps import StepState as StepState
from castd.request import Peer

SOURCE: str

class StepReader:
    def __init__(
        self,
        state: StepState,
        send: Callable[[memoryview], object],
        readable: Callable[[], object],
        datagramReceived: Callable[[bytes, Peer], object],
        stepRefused: Callable[[bytes, Peer], object],
        receiveFailed: Callable[[OSError], object],
        peer: Peer,
        largest: int,
    ) -> None: ...
    def __call__(self) -> object: ...

class GroupReader:
    def __init__(
        self,
        state: StepState,
        readable: Callable[[], object],
        datagramReceived: Callable[[bytes, Peer], object],
        stepRefused: Callable[[bytes, Peer], object],
        receiveFailed: Callable[[OSError], object],
        largest: int,
    ) -> None: ...
    def __call__(self) -> object: ...
    def aim(self, send: Callable[[memoryview], object], group: Peer) -> None: ...

def readRounds(
    epoll: int,
    members: list[Callable[[], object]],
    requests: list[Callable[[], object]],
    call: Callable[..., object],
    begun: float,
    until: float,
    timeout: float,
    wait: float,
    few: int,
    near: float,
    mostVain: int,
) -> tuple[int, float, float]: ...
def layOut(headers: bytes, content: bytes | bytearray | memoryview, count: int, blocksize: int) -> bytes: ...
