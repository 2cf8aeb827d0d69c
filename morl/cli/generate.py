"""`morl generate`: images at a weight vector, or one strip along the slider."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from morl.cli.budgets import add_budgets
from morl.errors import ConfigError, DataError
from morl.prompts import read_prompts
from morl.training.durable import require_writable

EXAMPLES = """examples:
  morl generate runs/shapes --prompt "a large red star on a dark background" \\
      --weights aesthetic=0.7,alignment=0.3 --seed 0 --out star.png
  morl generate runs/shapes --prompt "a blue ring" --budgets shapes_unsafe=0.05 --out ring.png
  morl generate runs/shapes --prompt "a blue ring" --sweep aesthetic:alignment:7 --out strip.png
"""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument("run_or_file", metavar="RUN", help="run directory or adapter file")
    parser.add_argument("--prompt", action="append", default=[], help="may be repeated")
    parser.add_argument("--prompts", type=Path, help="file with one prompt a line")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--weights", help="like aesthetic=0.7,alignment=0.3 (default: equal)")
    what.add_argument(
        "--sweep", metavar="FROM:TO:POINTS", help="a strip from one objective to another"
    )
    add_budgets(parser)
    parser.add_argument("--seed", type=int, default=0, help="same seed, same noise (default 0)")
    parser.add_argument("--steps", type=int, help="sampler steps (default: as trained)")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: as trained)")
    parser.add_argument("--out", type=Path, default=Path("image.png"))


def run(arguments: argparse.Namespace) -> int:
    prompts = [*arguments.prompt, *(read_prompts(arguments.prompts) if arguments.prompts else [])]
    if not prompts:
        raise DataError("nothing to draw: give --prompt TEXT or --prompts FILE")
    sweep = _parse_sweep(arguments.sweep) if arguments.sweep else None
    if arguments.out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out must end in {', '.join(SUFFIXES)}; got {arguments.out}")
    require_writable(arguments.out.parent)
    from morl.inference import load
    from morl.training.device import choose_device

    slider = load(arguments.run_or_file, device=choose_device("auto"))
    sampler = {
        "steps": arguments.steps,
        "guidance": arguments.guidance,
        "budgets": arguments.budgets,
    }
    if sweep:
        strips = [slider.sweep(prompt, *sweep, arguments.seed, **sampler) for prompt in prompts]
        images = [side_by_side(strip) for strip in strips]
    else:
        weights = arguments.weights or dict.fromkeys(slider.names, 1 / len(slider.names))
        images = slider.generate(prompts, weights, arguments.seed, **sampler)
    for number, image in enumerate(images):
        # Numbered, never named after the prompt: a prompt may hold anything.
        single = len(images) == 1
        stem = arguments.out.stem if single else f"{arguments.out.stem}-{number:03d}"
        path = arguments.out.with_stem(stem)
        save(image, path)
        print(path)
    return 0


def save(image: Image.Image, path: Path) -> None:
    """Write an image; a PNG keeps how it was made under the key "morl"."""
    if path.suffix.lower() == ".png" and "morl" in image.info:
        how = PngInfo()
        how.add_itxt("morl", image.info["morl"])
        image.save(path, pnginfo=how)
    else:
        image.save(path)


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Join images of one size into a strip."""
    width, height = images[0].size
    strip = Image.new("RGB", (width * len(images), height))
    for column, image in enumerate(images):
        strip.paste(image, (column * width, 0))
    return strip


def _parse_sweep(text: str) -> tuple[str, str, int]:
    parts = text.split(":")
    if len(parts) != 3 or not parts[2].isdigit() or int(parts[2]) < 2:
        raise ConfigError(
            f"--sweep is FROM:TO:POINTS with at least 2 points, like aesthetic:alignment:7; got "
            f"{text!r}"
        )
    return parts[0], parts[1], int(parts[2])
