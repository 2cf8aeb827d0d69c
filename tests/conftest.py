"""Shared by all tests: one thread a worker, and the checkout for the processes they start."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from hypothesis import settings

# Workers share the cores; a second thread team in each makes all of them many times slower. The
# variable is for the processes that tests start: in this one a plugin has imported torch already.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The same examples in every run, and no limit that a busy machine would break.
settings.register_profile("fixed", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("fixed")
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
)
