"""`morl report`: the one-file HTML report of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from morl.training.run import RunDirectory


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_directory", metavar="RUN", type=Path)


def run(arguments: argparse.Namespace) -> int:
    RunDirectory(arguments.run_directory).require()
    from morl.report import write_report

    print(f"report: {write_report(arguments.run_directory)}")
    return 0
