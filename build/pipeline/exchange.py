"""Two folders change places in one atomic step: renameat2(2) with RENAME_EXCHANGE."""

import ctypes
import os
from pathlib import Path

AT_FDCWD = -100
RENAME_EXCHANGE = 2


def exchange(left: Path, right: Path) -> None:
    """Swap two existing folders; a reader sees the old pair or the new one, never neither.

    Raises OSError: one is missing, or the file system cannot exchange (EINVAL).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(left), AT_FDCWD, os.fsencode(right), RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(left), None, str(right))
