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
    found = os.statvfs(path if within is None else within)
    return errno.EROFS if found.f_flag & os.ST_RDONLY else errno.EACCES


def whyNot(fault: int, otherwise: str) -> str:
    """
    Return in words why nothing can be written.

    @param fault: as L{writeFault} returns it, not 0.
    @param otherwise: said where it is for a permission.
    """
    return os.strerror(fault) if fault == errno.EROFS else otherwise
