"""Write files so that a crash at any moment leaves the old content or the new, never a mixture."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from morl.errors import ResourceError


def write_durably(path: Path, data: bytes) -> None:
    """Write a new file and force it to the disk; on failure no part of it stays behind.

    Raises ResourceError where the disk is full or the folder cannot be written.
    """
    descriptor = None
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _resource_error(path, error) from error
    finally:
        if descriptor is not None:
            os.close(descriptor)


def replace_durably(path: Path, data: bytes) -> None:
    """Put new content in the place of a file: written aside, forced to the disk, renamed."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    write_durably(temporary, data)
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_writable(folder: Path) -> None:
    """Create the folder if need be, and prove that a file can be written to it.

    Raises ResourceError, naming the folder and the cause.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _resource_error(folder, error) from error
    probe = folder / f".tmp-probe-{os.getpid()}"
    write_durably(probe, b"")
    probe.unlink()


def require_space(folder: Path, needed: int) -> None:
    """Raise ResourceError unless `needed` bytes are free where `folder` lies."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceError(
            f"{folder}: {needed / 1e6:.1f} MB are needed and {free / 1e6:.1f} MB are free; "
            "free some space; nothing has been overwritten"
        )


def _resource_error(path: Path, error: OSError) -> ResourceError:
    remedy = {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "free some space",
        errno.EACCES: "choose a folder that you may write to",
        errno.EROFS: "choose a folder that you may write to",
    }.get(error.errno or 0, "choose another folder")
    return ResourceError(f"{path}: cannot be written: {error.strerror}; {remedy}")
