"""
Find out, before it is tried, whether this process may write to a file or a directory, and why not.
"""

from __future__ import annotations

import errno
import os


def writeFault(path: str | os.PathLike[str], mode: int, within: int | None = None) -> int:
    """
    Return the number of the error with which this would fail; 0: it would not.

    C{access(2)} knows it, and Python says only yes or no.  Who may do what on a file system that is read-only does not
    matter: not even root may write there, and C{chown} and C{chmod} do not help.

    @param mode: what is to be done: C{os.W_OK}, and other bits of C{os.access}.
    @param within: descriptor of the directory that C{path} begins at.
    @raise OSError: the file system cannot be asked.
    """
    if os.access(path, mode, dir_fd=within, effective_ids=True):
        return 0
    return errno.EROFS if isReadOnly(path if within is None else within) else errno.EACCES


def isReadOnly(place: str | os.PathLike[str] | int) -> bool:
    """
    Return whether the file system of a file is read-only, or mounted so here.

    @raise OSError: it cannot be asked.
    """
    return bool(os.statvfs(place).f_flag & os.ST_RDONLY)
