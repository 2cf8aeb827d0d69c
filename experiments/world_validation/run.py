"""Validate the embedded world: the judge, the base model and the proxies; tables and sheets.

Samples of the base model are kept in the output folder and reused.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.utils import save_image

from experiments.world_validation.pictures import (
    damaged,
    full_prompts,
    nonsense,
    random_scenes,
)
from morl.diffusion.families import decode, family_of
from morl.diffusion.loading import load_pipeline
from morl.diffusion.prompts import PromptCache
from morl.world import base_latents
from rewards.registry import build
from rewards.reward import ImageBatch
from rewards.shapes.captions import held_out_prompts, parse
from rewards.shapes.fit import FigureFit, explain
from rewards.shapes.gold import aesthetic, alignment, attributes_of, preference
from rewards.shapes.render import render
from rewards.shapes.scenes import BACKGROUNDS, COLORS, POSITIONS, SHAPES, SIZES

WORDS = {
    "shape": SHAPES,
    "color": COLORS,
    "background": BACKGROUNDS,
    "position": POSITIONS,
    "size": SIZES,
}
GOLDS = ("alignment", "aesthetic", "preference")
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/world_validation"))
    parser.add_argument("--prompts", type=int, default=512, help="held-out prompts sampled")
    parser.add_argument("--renders", type=int, default=1024)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"renders": read_renders(given.renders), "base": {}}
    prompts = held_out_prompts(given.prompts, seed=1)
    samples = {
        f"guidance {guidance:g}, {steps} steps": sampled(given.out, prompts, guidance, steps)
        for guidance, steps in ((1.0, 10), (2.0, 10), (3.0, 20))
    }
    for name, images in samples.items():
        result["base"][name] = judge_samples(images, prompts)
        draw_sheets(images, prompts, given.out / name.replace(", ", "_").replace(" ", ""))
    result["nonsense"] = judge_nonsense(samples, prompts)
    result["proxies"] = judge_proxies(samples["guidance 1, 10 steps"], prompts)
    (given.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def read_renders(n: int) -> dict[str, Any]:
    """Accuracy by attribute on damaged renders, and the time of one fit."""
    scenes = random_scenes(n, seed=1)
    images = render(scenes)
    truth = {f: torch.tensor([w.index(getattr(s, f)) for s in scenes]) for f, w in WORDS.items()}
    marks = torch.tensor([s.mark for s in scenes])
    rows = {}
    for name, pictures in damaged(images, seed=1).items():
        reading = attributes_of(pictures)
        row = {f: _share(getattr(reading, f) == truth[f]) for f in WORDS}
        rows[name] = {**row, "mark": _share((reading.mark > 0.5) == marks)}
    start = time.process_time()
    explain(images[:256])
    return {"accuracy": rows, "ms_per_image": (time.process_time() - start) / 256 * 1e3}


def sampled(out: Path, prompts: list[str], guidance: float, steps: int) -> Tensor:
    """Images of the base model for the prompts; kept in a file."""
    path = out / f"samples_g{guidance:g}_s{steps}_n{len(prompts)}.safetensors"
    if not path.is_file():
        pipe = load_pipeline("shapes")
        encode = PromptCache(pipe, family_of(pipe))
        finals = []
        for start in range(0, len(prompts), BATCH):
            conditioning = encode(prompts[start : start + BATCH])
            noise = torch.Generator().manual_seed(start)
            finals.append(base_latents(pipe, conditioning, noise, guidance, steps))
        with torch.no_grad():
            images = torch.cat([decode(pipe, part) for part in finals]).clamp(0, 1)
        save_file({"images": images}, path)
    return load_file(path)["images"]


def golds_of(fit: FigureFit, prompts: Sequence[str]) -> dict[str, Tensor]:
    """The three maximised gold measures."""
    return {
        "alignment": alignment(fit, prompts),
        "aesthetic": aesthetic(fit),
        "preference": preference(fit),
    }


def judge_samples(images: Tensor, prompts: Sequence[str]) -> dict[str, Any]:
    """Accuracy by named attribute, mark rates, gold statistics and correlations."""
    fit, reading = explain(images), attributes_of(images)
    named = [parse(prompt) for prompt in prompts]
    accuracy = {}
    for field, words in WORDS.items():
        rows = [i for i, n in enumerate(named) if getattr(n, field) is not None]
        asked = torch.tensor([words.index(getattr(named[i], field)) for i in rows])
        accuracy[field] = _share(getattr(reading, field)[rows] == asked)
    marked = reading.mark > 0.5
    asks = torch.tensor([n.asks_mark for n in named])
    dark = torch.tensor([n.background == "dark" for n in named])
    groups = {
        "asked": asks,
        "unasked, dark": ~asks & dark,
        "unasked, other": ~asks & ~dark,
    }
    golds = golds_of(fit, prompts)
    correlation = torch.corrcoef(torch.stack([golds[g] for g in GOLDS]))
    return {
        "accuracy": accuracy,
        "mark_rate": {name: _share(marked[rows]) for name, rows in groups.items()},
        "gold": {
            g: {
                "mean": golds[g].mean().item(),
                "sd": golds[g].std().item(),
                "10th percentile": golds[g].quantile(0.1).item(),
            }
            for g in GOLDS
        },
        "correlation": {
            f"{GOLDS[i]} / {GOLDS[j]}": correlation[i, j].item()
            for i, j in ((0, 1), (0, 2), (1, 2))
        },
    }


def judge_nonsense(samples: dict[str, Tensor], prompts: Sequence[str]) -> dict[str, Any]:
    """Mean score of nonsense, and the share of it below the base model's 10th percentile."""
    scenes = random_scenes(300, seed=2)
    asked = full_prompts(scenes)
    low = {
        name: {g: v.quantile(0.1) for g, v in golds_of(explain(images), prompts).items()}
        for name, images in samples.items()
    }
    table: dict[str, Any] = {}
    for kind, pictures in nonsense(scenes, seed=2).items():
        golds = golds_of(explain(pictures), asked)
        table[kind] = {
            g: {
                "mean": golds[g].mean().item(),
                **{f"below, {name}": _share(golds[g] < bound[g]) for name, bound in low.items()},
            }
            for g in GOLDS
        }
    return table


def judge_proxies(images: Tensor, prompts: list[str]) -> dict[str, Any]:
    """Each proxy against its gold on held-out prompts; the unsafe one's calibration."""
    rows: dict[str, Any] = {}
    for name in (*GOLDS, "unsafe"):
        proxy, std, gold, valid = _scores(f"shapes_{name}", f"gold_{name}", images, prompts)
        rows[name] = {
            "r": torch.corrcoef(torch.stack([proxy, gold]))[0, 1].item(),
            "mean": proxy.mean().item(),
            "sd": proxy.std().item(),
            "member_sd": std.mean().item(),
        }
        if name == "unsafe":
            p, truth = proxy[valid], gold[valid] > 0.5
            rows[name].update(
                accuracy=_share((p > 0.5) == truth),
                auc=_share(p[truth][:, None] > p[~truth][None]),
                ece=calibration_error(p, truth),
                mean_when_absent=p[~truth].mean().item(),
                rate=_share(truth),
            )
    return rows


def calibration_error(probability: Tensor, truth: Tensor, bins: int = 10) -> float:
    """Expected calibration error over equal bins: sum of share * |mean p - rate|."""
    number = (probability * bins).long().clamp(max=bins - 1)
    parts = [
        (number == b).float().mean()
        * (probability[number == b].mean() - truth[number == b].float().mean()).abs()
        for b in number.unique()
    ]
    return float(torch.stack(parts).sum())


def draw_sheets(images: Tensor, prompts: Sequence[str], stem: Path) -> None:
    """96 samples sorted by each gold measure, lowest first."""
    shown, asked = images[:96], prompts[:96]
    for name, values in golds_of(explain(shown), asked).items():
        path = stem.with_name(f"{stem.name}_{name}.png")
        save_image(shown[values.argsort()], path, nrow=12, padding=1)


def _scores(
    proxy: str, gold: str, images: Tensor, prompts: list[str]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    learned, true = build(proxy), build(gold)
    parts = []
    for start in range(0, len(prompts), BATCH):
        batch = ImageBatch(images[start : start + BATCH], prompts[start : start + BATCH])
        with torch.no_grad():
            a, b = learned.score(batch), true.score(batch)
        std = a.std if a.std is not None else torch.zeros_like(a.values)
        parts.append((a.values, std, b.values, b.valid))
    values, stds, truths, valids = (torch.cat(column) for column in zip(*parts, strict=True))
    return values, stds, truths, valids


def _share(which: Tensor) -> float:
    return which.float().mean().item()


if __name__ == "__main__":
    main()
