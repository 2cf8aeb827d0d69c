"""One writer a run directory: an advisory lock that dies with its process."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from morl.errors import ResourceError


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the lock of a run directory, or raise ResourceError naming who holds it.

    The kernel frees the lock when its process ends, however it ends: a stale file locks nothing.
    """
    path = folder / ".lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise _refusal(folder, descriptor, error) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_owner()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _owner() -> dict[str, object]:
    return {"host": socket.gethostname(), "pid": os.getpid()}


def _refusal(folder: Path, descriptor: int, error: OSError) -> ResourceError:
    if error.errno not in (errno.EAGAIN, errno.EACCES):
        return ResourceError(
            f"{folder}: its file system cannot lock files ({error.strerror}); choose a local "
            "folder, because two writers would destroy the run"
        )
    owner = os.pread(descriptor, 4096, 0).decode(errors="replace")
    try:
        holder = json.loads(owner)
        who = f"process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return ResourceError(
        f"{folder}: in use by {who}; wait for it, stop it, or choose another --out"
    )
