# The part of google-re2 that castd uses, for octets; the library has no types of its own.
from collections.abc import Callable, Mapping
from typing import ClassVar

class error(Exception): ...  # noqa: N801

class Options:
    class Encoding:
        LATIN1: ClassVar[Options.Encoding]

    encoding: Encoding
    log_errors: bool
    max_mem: int

class Match:
    def __getitem__(self, group: int) -> bytes | None: ...

class Regexp:
    @property
    def groups(self) -> int: ...
    @property
    def groupindex(self) -> Mapping[bytes, int]: ...
    def subn(self, repl: Callable[[Match], bytes], text: bytes, count: int = 0) -> tuple[bytes, int]: ...

def compile(pattern: bytes, options: Options | None = None) -> Regexp: ...
