"""The configuration of a run: typed, frozen dataclasses whose fields state what they mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from morl.algorithms.settings import AlgorithmSettings, DraftSettings
from morl.config.objective_settings import ObjectiveConfig
from morl.guard.settings import GuardConfig
from morl.lora.settings import AdapterConfig
from morl.option import option


@dataclass(frozen=True)
class BaseConfig:
    """The diffusion pipeline that is adapted, and how it samples."""

    model: str = option(
        "shapes",
        "the embedded world's pipeline, a diffusers folder, a hub id like org/name, or a single "
        ".safetensors file as model sites publish them",
    )
    revision: str | None = option(None, "commit, tag or branch of a hub model")
    config: str | None = option(
        None,
        "of a single file: the diffusers folder or hub id whose tokenizer, scheduler and sizes it "
        "takes; where omitted, the original model that its tensor names tell of",
    )
    steps: int = option(10, "sampler steps", low=1)
    guidance: float = option(1.0, "classifier-free guidance scale; 1 is off and costs half", low=0)
    dtype: Literal["float32", "bfloat16", "float16"] = option(
        "float32", "number format of the frozen networks; adapter and autoencoder stay in float32"
    )
    quantize: Literal["none", "int8", "nf4"] = option(
        "none",
        "store the frozen denoiser in 8 bits (int8, by torchao) or 4 (nf4, by bitsandbytes); the "
        "adapter stays in float32",
    )
    size: int | None = option(
        None, "side of the square images; the pipeline's own where omitted", unit="pixels", low=8
    )
    gradient_checkpointing: bool = option(
        False,
        "recompute the denoiser's and the decoder's blocks in the backward pass instead of keeping "
        "what they computed: about a third more time for a fraction of the memory",
    )
    compile: bool = option(
        False,
        "torch.compile the denoiser's repeated blocks: slow first steps, faster ones after; "
        "replayed log-probs then agree up to rounding instead of bit for bit",
    )
    decode: Literal["whole", "sliced", "tiled"] = option(
        "whole",
        "decode a batch at once, image by image (sliced: the same images), or in overlapping tiles "
        "(tiled: least memory, faint differences at the seams of large images)",
    )
    offload_text_encoders: bool = option(
        False,
        "keep the text encoders on the CPU but for the moments in which a prompt is new",
    )


@dataclass(frozen=True)
class WeightsConfig:
    """Which weight vectors training draws: shares of the strata, and part of the simplex."""

    vertex: float = option(0.25, "share drawn at the vertices (one objective alone)", low=0, high=1)
    edge: float = option(0.25, "share drawn on edges (two objectives)", low=0, high=1)
    vertices_first: float = option(
        0.0,
        "share of the updates, the first ones, that draw vertices alone: every objective is learnt "
        "by itself before trade-offs are",
        low=0,
        high=1,
    )
    low: dict[str, float] = option({}, "least weight of an objective, by name; 0 where omitted")
    high: dict[str, float] = option({}, "largest weight of an objective, by name; 1 where omitted")
    budget_ends: float = option(
        0.5,
        "share of the images drawn at the ends of a range budget(low, high), half of them at each; "
        "the others lie between, uniform in the logarithm of the bound",
        low=0,
        high=1,
    )

    def bounds(self, names: tuple[str, ...]) -> tuple[list[float], list[float]]:
        """Return least and largest weights in the order of `names`."""
        low = [self.low.get(name, 0.0) for name in names]
        high = [self.high.get(name, 1.0) for name in names]
        return low, high


@dataclass(frozen=True)
class PromptsConfig:
    """Where prompts come from; the held-out ones are seen by evaluation alone."""

    train: str = option(
        "shapes",
        "the embedded world's training prompts, a file with one prompt a line, a .jsonl of records "
        "with a `prompt`, whose other fields reach the rewards, or a published list by name "
        "(ddpo_animals, drawbench, geneval, parti, pickapic_test)",
    )
    held_out: str = option(
        "shapes", "the embedded world's held-out prompts, or a file or list as for `train`"
    )


@dataclass(frozen=True)
class TrainingConfig:
    """The loop: how long, how much at once, how fast, and what is kept."""

    steps: int = option(
        100, "updates of the adapter in all, also across resumes; 0 trains nothing", low=0
    )
    batch_size: int = option(64, "images of one update on each device", unit="images", low=1)
    micro_batch: int | None = option(
        None,
        "images that pass the denoiser at once, all of them where omitted; the update stays the "
        "same, and the number is halved when memory runs out",
        unit="images",
        low=1,
    )
    learning_rate: float = option(
        3e-4, "step size of AdamW", above=0, source="DDPO, arXiv 2305.13301"
    )
    warmup: int = option(0, "updates over which the learning rate rises from 0", low=0)
    decay: float = option(
        0.0, "share of the updates, the last ones, over which the rate falls to 0", low=0, high=1
    )
    weight_decay: float = option(
        1e-4, "decay of the adapter per unit of learning rate", low=0, source="DDPO"
    )
    grad_clip: float = option(1.0, "largest gradient norm", above=0, source="DDPO")
    seed: int = option(0, "all randomness derives from it", low=0)
    checkpoint_every: int = option(25, "updates between checkpoints", low=1)
    sample_every: int = option(25, "updates between image strips along the slider", low=1)
    ema: float = option(
        0.9, "share of the averaged adapter kept at an update; 0 keeps no average", low=0, below=1
    )
    devices: int = option(1, "processes that share an update, one a device", low=1)
    accelerator: Literal["auto", "cpu", "gpu"] = option("auto", "where to compute")


@dataclass(frozen=True)
class EvaluationConfig:
    """How the front is measured on held-out prompts."""

    partitions: int = option(
        3, "the weight grid has entries that are multiples of 1 / partitions", low=1
    )
    images_per_weight: int = option(
        128, "images at each weight vector; prompts and noise are shared", unit="images", low=2
    )
    edge_points: int = option(7, "points of each edge path of a full evaluation", low=2)
    edge_images: int = option(
        256, "images at each of them in a full evaluation", unit="images", low=2
    )
    held_out: dict[str, str] = option(
        {},
        "measures that never train, by the name of the objective or constraint that they judge",
    )
    axes: dict[str, list[float]] = option(
        {},
        "[nadir, ideal] of a held-out measure, by objective, frozen before methods are compared; "
        "base mean - 1 and + 2 base standard deviations where omitted",
    )
    judged_images: int = option(
        128,
        "images at each weight vector that judge the constraints, with prompts and noise of their "
        "own; 0 judges none",
        unit="images",
        low=0,
    )
    guidance: float | None = option(None, "guidance scale; base.guidance where omitted", low=0)
    steps: int | None = option(None, "sampler steps; base.steps where omitted", low=1)


@dataclass(frozen=True)
class Config:
    """Everything that determines a run."""

    base: BaseConfig = field(default_factory=BaseConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    algorithm: AlgorithmSettings = field(default_factory=DraftSettings)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    @property
    def names(self) -> tuple[str, ...]:
        """Objectives in the order of the weight vector."""
        return tuple(self.objective.maximize)
