"""`morl rewards`: what can be composed, from torch-free facts; converts weights, learns rewards."""

from __future__ import annotations

import argparse
import dataclasses

from morl.cli import reward_training
from morl.cli.table import render
from morl.errors import ConfigError
from rewards.checkpoints import CHECKPOINTS
from rewards.facts import RewardFacts
from rewards.learned.card import located, read_card
from rewards.registry import available, facts_of

CONVERT, TRAIN, AVERAGE = WORDS = ("convert", "train", "average")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  morl rewards pickscore\n"
        "  morl rewards convert hpsv2_1 HPS_v2.1_compressed.pt   # a pickle is opened only here\n"
        "  morl rewards train ratings.csv look --task regression --encoder clip_vit_l_14\n"
        "  morl rewards train shapes:preference taste.safetensors --average --uncertainty laplace\n"
        "  morl rewards average seed0.safetensors,seed1.safetensors taste.safetensors\n"
        "\ntrain reads a .csv or .parquet with the columns image,label, or chosen,rejected for\n"
        "preference, and prompt with --reads-prompt; or asks the embedded world's annotators:\n"
        "shapes:aesthetic, shapes:alignment, shapes:preference, shapes:unsafe. OUT ends in\n"
        '.safetensors, R("taste.safetensors"), or is a name, kept beside the converted weights.\n'
    )
    parser.add_argument("name", nargs="?", help=f"describe this one; or {', '.join(WORDS)}")
    parser.add_argument("weights", nargs="?", help="an encoder or a head; or labels; or IN")
    parser.add_argument("file", nargs="?", help="the authors' file to convert; or OUT")
    parser.add_argument("--sha256", default="", help="what you expect of the file")
    reward_training.configure(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.name == CONVERT:
        return _convert(arguments)
    if arguments.name == TRAIN:
        return reward_training.train(arguments)
    if arguments.name == AVERAGE:
        return reward_training.average(arguments)
    if arguments.name:
        _describe(arguments.name)
        return 0
    header = ["name", "category", "range", "better", "gradient", "encoder", "GB", "licence"]
    rows = [_row(facts) for facts in available().values()]
    print(render([*header, "gold", "summary"], rows))
    print("\nGB: the encoder's weights in float32, once whatever number of rewards read it")
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    if not arguments.file:
        raise ConfigError("write: morl rewards convert NAME FILE, like the example in --help")
    from rewards.convert import convert

    print(convert(arguments.weights, arguments.file, arguments.sha256))
    return 0


def _describe(name: str) -> None:
    facts = facts_of(name)
    values = dataclasses.asdict(facts)
    if facts.encoder in CHECKPOINTS:
        row = CHECKPOINTS[facts.encoder]
        values |= {"weights": row.origin, "weights_gb": row.memory_gb}
    if (file := located(name)) is not None:
        values |= dataclasses.asdict(read_card(file)) | {"summary": facts.summary}
    for key, value in values.items():
        print(f"{key:18} {value}")


def _row(facts: RewardFacts) -> list[str]:
    known = CHECKPOINTS.get(facts.encoder or "")
    return [
        facts.name,
        facts.category,
        f"{facts.low:g} .. {facts.high:g}",
        "higher" if facts.higher_is_better else "lower",
        "yes" if facts.differentiable else "no",
        facts.encoder or "",
        f"{known.memory_gb:g}" if known else "",
        facts.licence,
        "gold" if facts.gold else "",
        facts.summary,
    ]
