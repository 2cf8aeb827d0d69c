"""`morl score`: any rewards on a folder of images, as a table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from morl.config.scorers import checkpoints_of, configure_scorers, unread_records
from morl.errors import ConfigError, DataError
from morl.training.durable import replace_durably, require_writable
from rewards import encoder_settings
from rewards.registry import available, facts_of

if TYPE_CHECKING:
    from morl.scoring.folder import Item

EXIT_DATA, EXIT_REWARD_FAULT = DataError.exit_code, 7
LISTED = 20

DETAILS = """prompts, for the rewards that read one:
  --prompts FILE.txt     one a line, as many as images, in the order of the images' names
  --prompts FILE.csv     columns file,prompt; or FILE.jsonl with the fields file and prompt. Files
                         are named relative to the folder; other fields are the prompt's record
  without --prompts      x.txt beside x.png, where there is any; otherwise only rewards that read
                         no prompt can be asked for

the table: a line an image, in the order of names, with the columns file, prompt, every reward in
its own units and direction (empty where it does not apply or failed), NAME_std where a reward is
an ensemble, and error. What is done is kept in OUT.partial; after a crash or Ctrl-C the same
command goes on from there; where some failed, it scores those again, and what has changed since.

exit code: 0; 3 where files could not be read; 7 where a reward failed on some images. All others
are scored.

examples:
  morl score images/ --rewards sharpness,saturation --out scores.csv
  morl score images/ --prompts prompts.txt --rewards laion_aesthetic_v2,clip_score --out scores.csv
  morl score images/ --reference real/ --metrics cmmd --out scores.csv
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = DETAILS
    parser.add_argument("folder", metavar="IMAGES", type=Path, help="folder, read recursively")
    parser.add_argument("--rewards", help="names by comma (see morl rewards)")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="see below")
    parser.add_argument("--out", type=Path, required=True, help=".csv, or .parquet with pyarrow")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="images at once")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument(
        "--config",
        metavar="RECIPE",
        help="take objective.encoders, .judges and .instruments from this configuration",
    )
    parser.add_argument(
        "--exact",
        action="store_true",
        help="prepare pixels by PIL, equal to the authors' code; default: as in training, within "
        "2/255 of it",
    )
    sets = parser.add_argument_group("the set as a whole")
    sets.add_argument("--reference", type=Path, metavar="IMAGES", help="folder to compare with")
    sets.add_argument(
        "--metrics", help="fid, kid, cmmd by comma; written to OUT's name.metrics.json"
    )
    sets.add_argument(
        "--features",
        metavar="ENCODER",
        default="inception_v3_fid",
        help="encoder of fid and kid; cmmd always reads clip_vit_l_14_336",
    )


def run(arguments: argparse.Namespace) -> int:
    names, metrics = _listed(arguments.rewards), _listed(arguments.metrics)
    if not names and not metrics:
        raise ConfigError("--rewards names none; write names by comma, see morl rewards")
    for name in names:
        facts_of(name)
    if arguments.batch_size < 1:
        raise ConfigError(f"--batch-size must be at least 1; got {arguments.batch_size}")
    if bool(metrics) != (arguments.reference is not None):
        raise ConfigError("--metrics and --reference go together: a set is compared with another")
    from morl.scoring.folder import items_of
    from morl.scoring.rows import require_format

    require_format(arguments.out)
    if metrics:
        from morl.scoring.compare import require_metrics

        require_metrics(metrics, arguments.features)
    told = _configure(arguments, names, metrics)
    items, notes = items_of(arguments.folder, arguments.prompts) if names else ([], [])
    if names:
        _require_prompts(names, items)
    require_writable(arguments.out.parent)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    codes = [_score(arguments, names, items, told)] if names else []
    codes += [_compare(arguments, metrics)] if metrics else []
    return max(codes)


def _listed(text: str | None) -> list[str]:
    return list(dict.fromkeys(filter(None, (name.strip() for name in (text or "").split(",")))))


def _configure(
    arguments: argparse.Namespace, names: Sequence[str], metrics: Sequence[str]
) -> dict[str, Any]:
    """Tell the scorers how to run; returns what a score depends on by that."""
    told: dict[str, Any] = {}
    if arguments.config is not None:
        from morl.config import load_config

        objective = load_config(arguments.config).objective
        configure_scorers(objective)
        judges = {name: asdict(judge) for name, judge in objective.judges.items()}
        told = {"judges": judges, "instruments": dict(objective.instruments)}
    encoders = checkpoints_of(names)
    if arguments.exact:
        of_sets = {"clip_vit_l_14_336", arguments.features} if metrics else set()
        for encoder in {*encoders, *of_sets}:
            settings = encoder_settings.settings_of(encoder)
            encoder_settings.configure(encoder, replace(settings, pixels="exact"))
    used = {name: asdict(encoder_settings.settings_of(name)) for name in encoders}
    return {**told, "encoders": used}


def _require_prompts(names: Sequence[str], items: Sequence[Item]) -> None:
    if items[0].prompt is None:
        reading = [name for name in names if facts_of(name).reads_prompt]
        if reading:
            free = [name for name, facts in available().items() if not facts.reads_prompt]
            raise ConfigError(
                f"--prompts: {', '.join(reading)} read a prompt, and none is given; see morl score "
                f"--help. Rewards that read none: {', '.join(free)}"
            )
    for name, record in unread_records(names, [item.prompt or "" for item in items]):
        raise ConfigError(
            f"--prompts: {name} reads {record!r} of each prompt's record, and no prompt has it"
        )


def _score(
    arguments: argparse.Namespace,
    names: Sequence[str],
    items: Sequence[Item],
    told: dict[str, Any],
) -> int:
    from morl.scoring.rows import Partial, write_table
    from morl.scoring.score import score_items
    from morl.training.device import choose_device
    from rewards.registry import build

    device = choose_device(arguments.device)
    rewards = [build(name, device) for name in names]
    folder = str(arguments.folder.resolve())
    partial = Partial(arguments.out, {**told, "folder": folder, "rewards": list(names)})
    try:
        faults = score_items(items, rewards, partial, arguments.batch_size)
    except KeyboardInterrupt:
        print(f"\nkept in {partial.path}: the same command goes on from there", file=sys.stderr)
        raise
    write_table(arguments.out, [partial.rows[item.name] for item in items], names)
    if faults.broken or faults.failed:
        print(f"{partial.path} is kept: the same command scores only these again", file=sys.stderr)
    else:
        partial.path.unlink()
    _report(faults.broken, "cannot be read")
    _report(faults.failed, "could not be scored by every reward")
    print(f"{len(items) - len(faults.broken)} of {len(items)} images: {arguments.out}")
    if faults.failed:
        return EXIT_REWARD_FAULT
    return EXIT_DATA if faults.broken else 0


def _compare(arguments: argparse.Namespace, metrics: Sequence[str]) -> int:
    from morl.scoring.compare import compare
    from morl.scoring.folder import files_of
    from morl.training.device import choose_device

    found = compare(
        files_of(arguments.folder),
        files_of(arguments.reference),
        metrics,
        arguments.features,
        choose_device(arguments.device),
        arguments.batch_size,
    )
    for name, value in found.values.items():
        print(f"{name:8} {value:.6g}")
    out = arguments.out.with_suffix(".metrics.json")
    replace_durably(out, (json.dumps(asdict(found), indent=1) + "\n").encode())
    print(out)
    _report(found.broken, "cannot be read")
    return EXIT_DATA if found.broken else 0


def _report(faults: dict[str, str], what: str) -> None:
    if not faults:
        return
    print(f"{len(faults)} images {what}:", file=sys.stderr)
    for name, reason in list(faults.items())[:LISTED]:
        print(f"  {name}: {reason}", file=sys.stderr)
    if len(faults) > LISTED:
        print("  ...; all in the column `error`", file=sys.stderr)
