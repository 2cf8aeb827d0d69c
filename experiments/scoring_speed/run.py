"""Five scorers on one encoder against one of them: how much of a batch's time do the others add?

The encoder is CLIP ViT-B/32 in size with random weights and features of 768 numbers, so that the
published heads for ViT-L/14 fit; what a score is worth plays no part in its time. What is timed is
scoring alone, in float32 and without gradients, from images of 512 x 512 on the device: resizing is
part of both sides. Prompts are read once a training and then remembered, so both sides have them
ready unless --new-prompts gives every batch its own: the five then pay for the text side as well,
and the one, which reads none, does not.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel

from experiments.interleaved import paired_ratio, timed_pairs
from rewards.encoder_settings import EncoderSettings, configure
from rewards.encoders import encoder_of
from rewards.panel import Panel
from rewards.registry import build
from rewards.reward import ImageBatch

FIVE = (
    "laion_aesthetic_v2",
    "laion_aesthetic_v1_l14",
    "clip_score",
    "laion_nsfw_l14",
    "clip_diversity",
)
ENCODER = "clip_vit_l_14"
SIZE = "ViT-B/32 in size"
VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}
TEXT = {"bos_token_id": 49406, "eos_token_id": 49407}
ALONE = "laion_aesthetic_v2"
AIM = 1.15
PROMPTS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15, help="timed pairs")
    parser.add_argument("--batch", type=int, default=32, help="images of 512 x 512")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--new-prompts", action="store_true", help="prompts no batch had before")
    parser.add_argument("--out", type=Path, default=Path("runs/scoring_speed.json"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        write_encoder(Path(folder))
        configure(ENCODER, EncoderSettings(folder=folder))
        result = measure(given.pairs, given.batch, given.device, given.new_prompts)
    result |= {"threads": torch.get_num_threads(), "batch": given.batch, "device": given.device}
    result |= {"encoder": SIZE, "torch": torch.__version__, "new_prompts": given.new_prompts}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"five scorers over one, {SIZE}, {given.device}: {result['ratio']:.3f} x "
        f"[{result['low']:.3f}, {result['high']:.3f}], aim {AIM}; {result['seconds']:.2f} s over "
        f"{result['floor_seconds']:.2f} s, n = {result['pairs']} pairs, "
        f"{result['encoder_forwards']} encoder forward(s) a batch of five"
    )


def measure(
    pairs: int, batch: int, device: str, new_prompts: bool = False, side: int = 512
) -> dict[str, object]:
    """Ratio of the seconds of a panel of five to those of one scorer alone.

    Also counts the encoder's image forwards in one batch of the five, by a hook on the network.
    """
    images = torch.rand(batch, 3, side, side, device=device)
    panels = [Panel([build(name, device) for name in names]) for names in (FIVE, (ALONE,))]
    drawn = count()

    @torch.no_grad()
    def score(panel: Panel) -> None:
        first = next(drawn) * PROMPTS if new_prompts else 0
        prompts = [f"a photograph of animal number {first + i % PROMPTS}" for i in range(batch)]
        # Reading the values waits for the device; a new batch remembers no features.
        panel(ImageBatch(images, prompts)).values.cpu()

    forwards: list[int] = []
    network: Any = encoder_of(ENCODER, device).tower
    hook = network.model.vision_model.register_forward_hook(lambda *_: forwards.append(1))
    score(panels[0])
    hook.remove()
    five, one = timed_pairs(lambda: score(panels[0]), lambda: score(panels[1]), pairs)
    return {**paired_ratio(five, one), "encoder_forwards": len(forwards)}


def write_encoder(
    folder: Path, vision: Mapping[str, int] = VISION, text: Mapping[str, int] = TEXT
) -> None:
    """A CLIP of these sizes under the name of the encoder that the five scorers read."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        CLIPModel(
            CLIPConfig(vision_config=dict(vision), text_config=dict(text), projection_dim=768)
        ).save_pretrained(folder)


if __name__ == "__main__":
    main()
