"""
Load the compiled loop, which takes steps on the fast path without the interpreter, and lays out chunks, where there is
one.

It is optional: without it the same is done by L{castd.net.epoll}, L{castd.server.fastpath} and
L{castd.server.blockcache}, in Python.  It is not used either if the variable C{CASTD_NATIVE} of the environment is 0,
or if it was built from other sources than these.  C{hatch_build.py} builds it.  See docs/decisions/native-loop.md.
"""

from __future__ import annotations

import importlib
import os
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

#: The variable of the environment that switches the loop off.
VARIABLE = "CASTD_NATIVE"
_MODULE = "castd.native._loop"
_SOURCE = Path(__file__).with_name("_loop.pyx")


def load(module: str = _MODULE, source: Path = _SOURCE) -> tuple[ModuleType | None, str, bool]:
    """
    Load the compiled loop.

    @param source: what it must have been built from.
    @return: the module, or L{None}; why it is not used, C{""} if it is; and whether somebody has to look at that.
    """
    if os.environ.get(VARIABLE) == "0":
        return None, f"{VARIABLE}=0", False
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError:
        return None, "not built", False
    except Exception as error:
        return None, f"it cannot be loaded: {error}", True
    try:
        wanted = sha256(source.read_bytes()).hexdigest()
    except OSError as error:
        return None, f"its source cannot be read: {error}", True
    if getattr(loaded, "SOURCE", None) != wanted:
        return None, "it was built from other sources; build it again, or delete it", True
    return loaded, "", False


_loaded, REASON, WORTH_A_WARNING = load()
#: The compiled loop is used.
NATIVE = _loaded is not None

# A class must be the same for all who import it, so this is decided once in a process.
if TYPE_CHECKING or not NATIVE:
    from castd.native.steps import MasterSteps as MasterSteps
    from castd.native.steps import StepLists as StepLists
    from castd.native.steps import StepState as StepState
else:
    from castd.native._loop import MasterSteps as MasterSteps
    from castd.native._loop import StepLists as StepLists
    from castd.native._loop import StepState as StepState

if TYPE_CHECKING or NATIVE:
    from castd.native._loop import GroupReader as GroupReader
    from castd.native._loop import StepReader as StepReader
    from castd.native._loop import layOut as layOut
    from castd.native._loop import readRounds as readRounds


def describe() -> str:
    """Return in a few words whether the compiled loop is used, and why not."""
    return "native loop" if NATIVE else f"pure Python: {REASON}"
