"""Shared by all tests: one thread a worker, and the checkout for the processes they start."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import settings

# Workers share the cores; a second thread team in each would make every one of them slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The same examples in every run, and no limit that a busy machine would break.
settings.register_profile("fixed", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("fixed")
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
)
