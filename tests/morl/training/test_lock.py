"""One writer a run directory, and a lock that cannot go stale."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from morl.errors import ResourceError
from morl.training.lock import exclusive

HOLD = """
import sys, time
from pathlib import Path
from morl.training.lock import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_by_name_until_the_first_ends(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ResourceError, match=f"in use by process {holder.pid} on "),
            exclusive(tmp_path),
        ):
            pytest.fail("two writers")
        holder.kill()  # the kernel frees the lock, the stale file locks nothing
        holder.wait()
    with exclusive(tmp_path):
        assert (tmp_path / ".lock").read_text().count(str(os.getpid())) == 1


def test_a_second_writer_in_the_same_process_is_refused(tmp_path):
    with exclusive(tmp_path), pytest.raises(ResourceError, match="in use"), exclusive(tmp_path):
        pytest.fail("two writers")


def test_it_is_free_again_after_an_error(tmp_path):
    with pytest.raises(KeyError), exclusive(tmp_path):
        raise KeyError
    with exclusive(tmp_path):
        pass


def test_a_file_system_without_locks_is_refused_with_its_reason(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(ResourceError, match=r"cannot lock files \(No locks available\)"),
        exclusive(tmp_path),
    ):
        pytest.fail("no lock")


def test_an_unreadable_owner_is_still_an_owner(tmp_path):
    with exclusive(tmp_path):
        (tmp_path / ".lock").write_text("nonsense")
        with pytest.raises(ResourceError, match="in use by another process"), exclusive(tmp_path):
            pytest.fail("two writers")
