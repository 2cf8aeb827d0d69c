"""Build a tiny pipeline, tiny scorers and a recipe, so that a packaged recipe can run for real.

    python tests/build_tiny.py sdxl draft FOLDER

writes the pipeline to FOLDER/sdxl, the scorers' checkpoints to FOLDER/rewards (to be named by
MORL_REWARDS_HOME) and FOLDER/sdxl.yaml, which extends the packaged recipe and changes sizes alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from tiny_pipelines import build
from tiny_scorers import write_home

from morl.diffusion.families import family_of

MOST_PARAMETERS = 300_000


def main(family: str, algorithm: str, folder: Path) -> None:
    pipe = build(family)
    count = sum(p.numel() for p in family_of(pipe).denoiser_of(pipe).parameters())
    if count > MOST_PARAMETERS:
        raise SystemExit(f"{family}: {count:,} parameters; at most {MOST_PARAMETERS:,}")
    pipe.save_pretrained(folder / family)
    (folder / "rewards").mkdir(parents=True)
    (folder / "originals").mkdir()
    write_home(folder / "rewards", folder / "originals")
    recipe = folder / f"{family}.yaml"
    recipe.write_text(yaml.safe_dump(small(family, algorithm, folder), sort_keys=False))
    print(f"{recipe}: denoiser of {count:,} parameters")


def small(family: str, algorithm: str, folder: Path) -> dict[str, object]:
    """The packaged recipe with a model, an image size and counts that two CPU cores can take."""
    return {
        "extends": f"{family}_{algorithm}",
        "base": {
            "model": str((folder / family).resolve()),
            "revision": None,
            "steps": 3,
            "size": 16,
            "dtype": "float32",
        },
        "objective": {"encoders": {}},
        "algorithm": {"noise_steps": 2} if algorithm == "policy_gradient" else {},
        "training": {"steps": 2, "batch_size": 16, "micro_batch": 8, "checkpoint_every": 1},
        "evaluation": {
            "partitions": 1,
            "images_per_weight": 8,
            "judged_images": 8,
            "steps": 3,
        },
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
