"""What a run will cost, from its configuration and file headers alone: nothing is loaded."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morl.config.guidance import guidance_mismatch, judged_guidance
from morl.config.published import PUBLISHED
from morl.config.scorers import checkpoints_of
from morl.config.tree import Config
from morl.errors import IntegrityError
from morl.prompts import WORLD
from rewards.checkpoints import CHECKPOINTS
from rewards.encoder_settings import EncoderSettings
from rewards.objective import Objective

WORLD_FOLDER = Path(__file__).parents[1] / "diffusion" / "assets" / "shapes"
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Values kept for a backward pass, for each channel, pixel and layer of a U-Net with LoRA on its
# attention: 36 measured on the embedded world's, 43 on one four times as large.
KEPT_VALUES = 40
MAX_HEADER = 100_000_000  # safetensors' own limit


@dataclass(frozen=True)
class Plan:
    """Images, network evaluations (one image through the denoiser once = 1) and memory."""

    updates: int
    images: int
    forwards: float
    backwards: float
    grid_points: int
    front_images: int
    front_forwards: float
    network_bytes: int | None
    """Frozen networks in `base.dtype`; None for an unknown model that is not here."""
    encoder_bytes: int
    """The rewards' own encoders, from their declared sizes; those of a judge run elsewhere."""
    backward_bytes: int | None
    """What one differentiated denoiser call keeps, on a micro-batch; None for a network whose
    size is not declared."""
    calls_kept: int
    """Differentiated calls that wait for the same backward pass."""
    decode_bytes: int
    """What decoding a micro-batch keeps for a reward gradient; 0 where none is taken or known."""

    licence: str | None = None
    """Of the base model, where it is declared."""
    looks: int = 0
    look_images: int = 0
    """Of a guard on the whole simplex: at its corners and centre, all looks together."""
    quantized: bool = False
    """Whether the denoiser will take less than `network_bytes` counts for it."""
    mismatch: str | None = None
    """What is to be said where training and judging differ in guidance."""

    def describe(self) -> str:
        """Return a few aligned lines for a terminal."""
        licence = f"base model           licence {self.licence}"
        before = " before quantisation" if self.quantized else ""
        return "\n".join(
            [
                *([] if self.licence is None else [licence]),
                f"training images      {self.images:,} in {self.updates:,} updates",
                f"network evaluations  {self.forwards:,.0f} forward and {self.backwards:,.0f} "
                "forward with backward",
                f"front                {self.front_images:,} images at {self.grid_points} weight "
                f"vectors, {self.front_forwards:,.0f} network evaluations",
                *self._guarded(),
                f"memory               networks {_megabytes(self.network_bytes)}{before}, one "
                f"differentiated call about {_megabytes(self.backward_bytes)}"
                f"{f' ({self.calls_kept} kept at once)' if self.calls_kept > 1 else ''}"
                f"{self._further()}; computed, not measured",
                *([] if self.mismatch is None else [f"note                 {self.mismatch}"]),
            ]
        )

    def _guarded(self) -> list[str]:
        if not self.looks:
            return []
        return [f"guard                {self.look_images:,} images at {self.looks} looks"]

    def _further(self) -> str:
        known = (("encoders of rewards", self.encoder_bytes), ("decoding", self.decode_bytes))
        return "".join(f", {what} {_megabytes(size)}" for what, size in known if size)


def plan(config: Config) -> Plan:
    """Count images and network evaluations, and estimate memory, without importing torch.

    Guidance doubles every evaluation of a network that it is no input of. Memory is that of the
    frozen networks (offloaded text encoders left out), the rewards' encoders, and one backward pass
    through denoiser and, for a reward gradient, decoder; the rewards' own backward comes on top.
    """
    training, evaluation, base = config.training, config.evaluation, config.base
    images = training.steps * training.batch_size * training.devices
    published = PUBLISHED.get(base.model)
    doubles = published is None or published.classifier_free
    branches = _branches(base.guidance, doubles)
    spent = config.algorithm.evaluations(base.steps)
    objectives = max(1, len(config.names))
    points = math.comb(evaluation.partitions + objectives - 1, objectives - 1)
    judged = evaluation.judged_images if config.objective.subject_to else 0
    # The base model is measured beside the grid.
    front_images = (points + 1) * (evaluation.images_per_weight + judged)
    guard = config.guard
    looks = training.steps // guard.every if guard.every else 0
    folder = WORLD_FOLDER if base.model == WORLD else Path(base.model)
    width = BYTES[base.dtype]
    size = training.micro_batch or training.batch_size
    if published is None:
        described = folder if base.config is None else Path(base.config)
        parameters, kept, decoded = count_parameters(folder), _kept_values(described), 0
        networks = None if parameters is None else parameters * width
    else:
        networks = published.bytes(width, offloaded=base.offload_text_encoders)
        kept = published.kept(base.size, checkpointed=base.gradient_checkpointing)
        decoded = published.decoded(base.size, checkpointed=base.gradient_checkpointing)
    return Plan(
        updates=training.steps,
        images=images,
        forwards=images * spent.forward * branches,
        backwards=images * spent.backward * branches,
        grid_points=points,
        front_images=front_images,
        front_forwards=front_images
        * (evaluation.steps or base.steps)
        * _branches(judged_guidance(config), doubles),
        network_bytes=networks,
        encoder_bytes=_encoder_bytes(config),
        backward_bytes=None if kept is None else kept * size * branches * width,
        calls_kept=spent.kept,
        decode_bytes=decoded * size * BYTES["float32"] * spent.decoded,
        looks=looks,
        look_images=looks * (objectives + 1) * guard.prompts * guard.images_per_prompt,
        quantized=base.quantize != "none",
        mismatch=guidance_mismatch(config),
        licence=None if published is None else published.licence,
    )


def _encoder_bytes(config: Config) -> int:
    """Memory of the distinct encoders that the objective's rewards read, each loaded once."""
    leaves = Objective.from_dict(config.objective.to_objective()).leaves
    total = 0.0
    for name in checkpoints_of(leaves):
        settings = config.objective.encoders.get(name, EncoderSettings())
        total += CHECKPOINTS[name].memory_gb * BYTES[settings.dtype] / BYTES["float32"]
    return round(total * 1e9)


def count_parameters(folder: Path) -> int | None:
    """Sum the elements of a diffusers folder's safetensors from their headers; None without any.

    folder: or a single file. Raises IntegrityError for a file whose header cannot be read.
    """
    if folder.is_file():
        return _elements(folder)
    files = [path for path in folder.glob("*/*.safetensors") if "safety_checker" not in path.parts]
    plain = [path for path in files if ".fp16." not in path.name]
    return sum(_elements(path) for path in plain or files) if files else None


def _elements(file: Path) -> int:
    return sum(
        math.prod(entry["shape"]) for name, entry in _header(file).items() if name != "__metadata__"
    )


def _header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 0 < size <= min(MAX_HEADER, path.stat().st_size):
                raise ValueError(size)
            header: dict[str, Any] = json.loads(file.read(size))
    except ValueError as error:
        raise IntegrityError(f"{path}: not a whole safetensors file; download it again") from error
    return header


def _kept_values(folder: Path) -> int | None:
    """Values that one image's backward pass through a U-Net keeps, from its config.json."""
    file = folder / "unet" / "config.json"
    if not file.is_file():
        return None
    unet = json.loads(file.read_bytes())
    layers = unet["layers_per_block"]
    depth = layers if isinstance(layers, list) else [layers] * len(unet["block_out_channels"])
    blocks = zip(unet["block_out_channels"], depth, strict=True)
    # Every level stands in the way down and in the way up, at half the width of the one before.
    cells = sum(
        2 * channels * count * (unet["sample_size"] / 2**level) ** 2
        for level, (channels, count) in enumerate(blocks)
    )
    return round(KEPT_VALUES * cells)


def _branches(guidance: float, doubles: bool) -> int:
    return 2 if doubles and guidance > 1 else 1


def _megabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e6:,.0f} MB"
