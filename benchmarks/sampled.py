"""Is castd with a sampler in it: C{python sampled.py LIBRARY FILE serve -c SERVICE}.

L{BEGIN} begins to sample, L{END} ends it and writes what was found as JSON; both as often as one likes. A sample is
where the processor was (C{sampler.c}), and the functions of Python that led there. Started by C{stages.py}.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

BEGIN, END = signal.SIGRTMIN + 3, signal.SIGRTMIN + 4
#: Microseconds of CPU time between two samples; no more often than the kernel ticks.
EVERY = 1000
#: Stands for the functions that led there, while the garbage collector is at work.
COLLECTOR = "garbage collector"


class Sampler:
    """Counts samples, by where they were met.

    @ivar file: what L{end} writes: a list of where the processor was, functions (innermost first), and how often.
    """

    def __init__(self, library: str, file: str) -> None:
        self.file = Path(file)
        self._library = ctypes.CDLL(library)
        self._text = ctypes.create_string_buffer(256)
        self._found: Counter[tuple[str, tuple[int, ...]]] = Counter()
        self._codes: dict[int, CodeType] = {}
        self._wakes = -1
        self._collecting = False

    def install(self) -> None:
        """Take the signals, and look at the garbage collector."""
        signal.signal(signal.SIGPROF, self._sampled)
        if self._library.sampler_install():
            raise OSError("no handler for SIGPROF")
        signal.signal(BEGIN, self.begin)
        signal.signal(END, self.end)

    def begin(self, number: int, frame: FrameType | None) -> None:
        """Forget what was found, and sample."""
        # A sample must not wake the reactor.
        self._wakes = signal.set_wakeup_fd(-1)
        self._take("")
        self._found.clear()
        gc.callbacks.append(self._collector)
        self._library.sampler_run(EVERY)

    def end(self, number: int, frame: FrameType | None) -> None:
        """Sample no more, and write what was found."""
        self._library.sampler_run(0)
        gc.callbacks.remove(self._collector)
        signal.set_wakeup_fd(self._wakes)
        rows = [(where, [_name(self._codes[code]) for code in codes], n) for (where, codes), n in self._found.items()]
        made = self.file.with_suffix(".part")
        made.write_text(json.dumps(rows))
        made.rename(self.file)

    def _collector(self, phase: str, facts: dict[str, int]) -> None:
        # What was met before is counted when this is called, what was met in the collector when this is called again.
        self._collecting = phase == "start"

    def _sampled(self, number: int, frame: FrameType | None) -> None:
        codes = []
        collected = False
        while frame is not None:
            code = frame.f_code
            if code is _COLLECTOR_CODE:
                collected = self._collecting
            else:
                codes.append(id(code))
                self._codes[id(code)] = code
            frame = frame.f_back
        self._take(COLLECTOR if collected else "", tuple(codes))

    def _take(self, instead: str, codes: tuple[int, ...] = ()) -> None:
        text = self._text
        while self._library.sampler_take(text, len(text)):
            self._found[instead or text.value.decode(), codes] += 1


_COLLECTOR_CODE = Sampler._collector.__code__


def _name(code: CodeType) -> str:
    """@return: file, below the folder of its package, and function."""
    parts = Path(code.co_filename).parts
    for package in ("castd", "twisted"):
        if package in parts:
            start = len(parts) - 1 - parts[::-1].index(package)
            return f"{'/'.join(parts[start:])}:{code.co_qualname}"
    return f"{'/'.join(parts[-2:])}:{code.co_qualname}"


def main() -> None:
    """Install the sampler, and be castd."""
    library, file, *arguments = sys.argv[1:]
    sys.path[:] = [path for path in sys.path if path and os.path.realpath(path) != os.path.dirname(__file__)]
    Sampler(library, file).install()
    from castd.cli.main import main as castd

    castd(arguments, prog_name="castd")


if __name__ == "__main__":
    main()
