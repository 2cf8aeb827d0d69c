"""Train all learned proxies of the embedded world, from nothing to files."""

import os
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from rewards.shapes.clip import ShapesClip
from rewards.shapes.proxies import save_proxies
from rewards.shapes.train_clip import ClipTraining, train_clip
from rewards.shapes.train_heads import HeadTraining, train_heads


def train_proxies(
    out_dir: str | os.PathLike[str],
    seed: int,
    base_images: Float[Tensor, "batch 3 height width"],
    base_prompts: Sequence[str],
    clip: ShapesClip | None = None,
    clip_training: ClipTraining | None = None,
    head_training: HeadTraining | None = None,
) -> Path:
    """Train the CLIP and its heads, and write them to `out_dir`; returns the folder.

    base_images, base_prompts: samples of the base model, at least 1,800 by default, what the
    annotators mostly label; clip: a trained one to keep, which leaves only the heads (a minute).
    The same seed and samples give the same files on the same machine.
    """
    tower = clip if clip is not None else train_clip(seed, clip_training)
    return save_proxies(train_heads(tower, base_images, base_prompts, seed, head_training), out_dir)
