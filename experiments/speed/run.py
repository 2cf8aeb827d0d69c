"""What the toolkit adds to the bare network: whole iterations against a floor of direct calls."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from peft import LoraConfig
from torch import Tensor, nn

from experiments.interleaved import paired_ratio, timed_pairs
from experiments.step_timer import StepTimer
from morl.config import load_config
from morl.diffusion.families import decode
from morl.diffusion.loading import load_pipeline
from morl.diffusion.replay import replay_noise_pred
from morl.lora.targets import target_layers
from morl.prompts import load_prompts
from morl.training.assemble import Assembly, assemble, fit_calibration
from morl.training.session import build_module
from rewards.reward import ImageBatch

BATCH = 64
STEPS = 10
RECIPES = {
    "reward_gradient": ["algorithm.name=draft", "algorithm.kl_coef=0"],
    "policy_gradient": ["algorithm.name=policy_gradient"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15, help="timed pairs of each comparison")
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--out", type=Path, default=Path("runs/speed.json"))
    given = parser.parse_args()
    torch.set_num_threads(2)
    result: dict[str, Any] = {"replay": replay_ratio(given.model, given.pairs)}
    for name in RECIPES:
        result[name] = iteration_ratio(name, given.model, given.pairs)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in result.items():
        print(
            f"{name:16} {row['ratio']:.3f} x  [{row['low']:.3f}, {row['high']:.3f}]  "
            f"toolkit {row['seconds']:.2f} s, floor {row['floor_seconds']:.2f} s, "
            f"n = {row['pairs']}"
        )


class Bare:
    """The same network with peft's own unmerged LoRA, called directly."""

    def __init__(self, parts: Assembly, model: str) -> None:
        self.pipe = load_pipeline(model)
        self.network: nn.Module = self.pipe.unet
        paths = list(target_layers(self.network, parts.config.adapter.targets))
        rank = parts.config.adapter.rank
        self.network.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=paths))
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=1e-6)
        self.text = torch.randn(BATCH, 32, 128)
        self.latents = torch.randn(BATCH, 4, 16, 16)

    def forward(self, copies: int = 1) -> Tensor:
        latents = self.latents.repeat(copies, 1, 1, 1)
        text = self.text.repeat(copies, 1, 1)
        output: Tensor = self.network(latents, 500, encoder_hidden_states=text)[0]
        return output


def iteration_ratio(name: str, model: str, pairs: int) -> dict[str, Any]:
    """Seconds of a whole Lightning step over the direct calls that it cannot do without."""
    config = load_config(
        "shapes",
        [
            *RECIPES[name],
            f"base.model={model}",
            f"base.steps={STEPS}",
            "base.guidance=1",
            f"training.batch_size={BATCH}",
            f"training.steps={pairs + 1}",
        ],
    )
    parts = assemble(config)
    prompts = load_prompts("shapes", "train", 0)
    module = build_module(parts, prompts, fit_calibration(parts, prompts, 0))
    bare = Bare(parts, model)
    timer = StepTimer(lambda: floor(name, bare, parts, prompts))
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=[timer],
    )
    steps: Any = range(pairs + 1)
    trainer.fit(module, torch.utils.data.DataLoader(steps, batch_size=None))
    return paired_ratio(timer.steps[1:], timer.others[1:])


def floor(name: str, bare: Bare, parts: Assembly, prompts: list[str]) -> None:
    """Direct calls at full batch, in the same gradient modes, without any toolkit around them."""
    batch = prompts[:BATCH]
    if name == "reward_gradient":
        settings = parts.config.algorithm
        differentiated = settings.drawn_steps or settings.last_steps  # type: ignore[union-attr]
        copies = 1 + settings.renoise_copies  # type: ignore[union-attr]
        with torch.no_grad():
            for _ in range(STEPS - differentiated):
                bare.forward()
        # Gradients stop at the latents, as in the recipe: each call adds its own part.
        first = torch.stack([bare.forward() for _ in range(differentiated)]).sum(dim=0)
        rest = bare.forward(copies - 1) if copies > 1 else first[:0]
        images = decode(bare.pipe, torch.cat([first, rest]))
        _encode(parts, images, batch * copies).backward()
    else:
        with torch.no_grad():
            for _ in range(STEPS):
                output = bare.forward()
            _encode(parts, decode(bare.pipe, output), batch)
        for _ in range(STEPS - 1):  # the last DDIM step has no log-probability
            bare.forward().mean().backward()
    bare.optimiser.step()
    bare.optimiser.zero_grad()


def _encode(parts: Assembly, images: Tensor, prompts: list[str]) -> Tensor:
    table = parts.bound.panel(ImageBatch(images, prompts))
    return table.values.mean()


def replay_ratio(model: str, pairs: int) -> dict[str, Any]:
    """One recorded, replayed step against a direct call, both with forward and backward."""
    config = load_config("shapes", [f"base.model={model}", f"training.batch_size={BATCH}"])
    parts = assemble(config)
    bare = Bare(parts, model)
    weights = torch.full((BATCH, len(config.names)), 1 / len(config.names))
    prompts = load_prompts("shapes", "train", 0)[:BATCH]
    noise = parts.sampler.noise(BATCH, torch.Generator().manual_seed(0))
    (rollout,) = parts.sampler.record(prompts, weights, noise)

    def replay() -> None:
        bind = parts.adapter.bind
        replay_noise_pred(parts.pipe, parts.family, rollout, 5, bind=bind).mean().backward()

    return paired_ratio(*timed_pairs(replay, lambda: bare.forward().mean().backward(), pairs))


if __name__ == "__main__":
    main()
