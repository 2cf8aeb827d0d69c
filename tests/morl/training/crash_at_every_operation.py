"""Die at the n-th file operation of a save, for every n, and print what a restart then finds.

Run as a script: `crash_at_every_operation.py FOLDER`. One line of JSON for each n; the last one is
the save that was left to finish.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from pathlib import Path

import torch

from morl.training.checkpoint import load_checkpoint, save_checkpoint
from morl.training.run import RunDirectory

OPERATIONS = ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir")


def save(run: RunDirectory, step: int) -> None:
    """A checkpoint whose every part names its step; only the newest is kept."""
    tensors = {
        "adapter": {"a": torch.full((50,), float(step)), "b": torch.full((3, 4), float(step))},
        "optimizer": {"m": torch.full((50,), float(step))},
    }
    save_checkpoint(run, step, tensors, {"step": step}, keep=1)


def die_at(fatal: int) -> None:
    """Let this process end without cleaning up at its `fatal`-th file operation."""
    done = 0

    def deadly(name):
        real = getattr(os, name)

        def operation(*arguments, **options):
            nonlocal done
            done += 1
            if done == fatal:
                if name == "write":  # as much as half of it may reach the disk
                    real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                os._exit(9)
            return real(*arguments, **options)

        return operation

    for name in OPERATIONS:
        setattr(os, name, deadly(name))


def found_after_crash(folder: Path, fatal: int) -> dict[str, object]:
    run = RunDirectory(folder)
    folder.mkdir()
    save(run, 1)
    child = os.fork()
    if child == 0:
        die_at(fatal)
        save(run, 2)
        os._exit(0)
    finished = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # falling back would mean that a broken one was visible
        checkpoint = load_checkpoint(run)
    tensors = [t for group in checkpoint.tensors.values() for t in group.values()]
    return {
        "finished": finished,
        "step": checkpoint.step,
        "values": sorted({*torch.cat([t.flatten() for t in tensors]).tolist()}),
        "state": checkpoint.state["step"],
        "names": sorted(path.name for path in folder.iterdir()),
    }


def main() -> None:
    fatal = 1
    while True:
        folder = Path(sys.argv[1]) / "run"
        found = found_after_crash(folder, fatal)
        print(json.dumps(found))
        shutil.rmtree(folder)
        if found["finished"]:
            return
        fatal += 1


if __name__ == "__main__":
    main()
