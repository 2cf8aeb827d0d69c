"""A trained slider: images at any weight vector, strips along an edge, plain LoRAs for other tools."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from morl.config.load import load_config
from morl.diffusion.families import decode, family_of
from morl.diffusion.loading import base_identity, load_pipeline
from morl.diffusion.prompts import PromptCache
from morl.diffusion.rollout import initial_latents
from morl.errors import ConfigError, DataError, WeightError
from morl.lora.collapse import Layout, export_lora
from morl.lora.conditioned import ConditionedAdapter
from morl.lora.store import ADAPTER_FILE, AdapterHeader, load_adapter, read_adapter
from morl.randomness import generator
from morl.weights import edge_path, parse_weights
from rewards.errors import nearest

OneWeight = str | Mapping[str, float] | Sequence[float] | Tensor
"""By name ("a=0.7,b=0.3" or a mapping; omitted ones are 0), or all K values in order."""
Weights = OneWeight | Sequence[OneWeight]
"""One vector for all images, or one an image: a list of them, or a tensor [B,K]."""
Schedule = Callable[[int], Weights]
"""Weights of every sampler step, counted from 0."""

BATCH = 16


class RegionNote(UserWarning):
    """Weights lie outside the part of the simplex that training drew from."""


class Slider:
    """One adapter on one pipeline; `names` are the objectives in the order of the weights."""

    def __init__(
        self,
        pipe: DiffusionPipeline,
        adapter: ConditionedAdapter,
        header: AdapterHeader,
        file: Path,
    ) -> None:
        self.pipe = pipe
        self.adapter = adapter
        self.header = header
        self.file = file
        self._family = family_of(pipe)
        self._encode = PromptCache(pipe, self._family)

    @property
    def names(self) -> tuple[str, ...]:
        """Objectives in the order of the weight vector."""
        return self.header.objectives

    @overload
    def generate(  # type: ignore[overload-overlap]
        self,
        prompt: str,
        weights: Weights | Schedule,
        seed: int | Sequence[int] = 0,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        size: tuple[int, int] | None = None,
        batch_size: int = BATCH,
    ) -> Image.Image | list[Image.Image]: ...

    @overload
    def generate(
        self,
        prompt: Sequence[str],
        weights: Weights | Schedule,
        seed: int | Sequence[int] = 0,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        size: tuple[int, int] | None = None,
        batch_size: int = BATCH,
    ) -> list[Image.Image]: ...

    def generate(
        self,
        prompt: str | Sequence[str],
        weights: Weights | Schedule,
        seed: int | Sequence[int] = 0,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        size: tuple[int, int] | None = None,
        batch_size: int = BATCH,
    ) -> Image.Image | list[Image.Image]:
        """Draw images; one prompt, one weight vector and one seed give one image, else a list.

        prompt, weights and seed each serve all images or give one an image. An image's noise is a
        function of its seed alone, so it does not depend on the rest of the batch, but for the
        rounding of batched arithmetic: in fp32 a pixel may differ by 1 of 255. weights may be a
        function of the step. steps and guidance: as trained where None; size: (height, width) in
        pixels; batch_size: images in memory at once. Raises WeightError for weights that mean
        nothing and ConfigError for counts that do not fit together.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        seeds = [seed] if isinstance(seed, int) else list(seed)
        at = self._schedule(weights)
        rows = at(0)
        count = _common_length(prompts=prompts, weights=rows, seeds=seeds)
        prompts, seeds = prompts * (count // len(prompts)), seeds * (count // len(seeds))
        self._note_region(rows)
        request = _Request(self._setting("steps", steps), self._setting("guidance", guidance), size)
        images: list[Image.Image] = []
        for start in range(0, count, batch_size):
            chunk = slice(start, start + batch_size)

            def at_step(step: int, chunk: slice = chunk) -> Tensor:
                return at(step).expand(count, -1)[chunk]

            images += self._draw(prompts[chunk], seeds[chunk], at_step, request)
        for image, text, number, row in zip(images, prompts, seeds, rows.expand(count, -1), strict=True):
            shares = dict(zip(self.names, row.tolist(), strict=True))
            image.info["morl"] = json.dumps({"prompt": text, "seed": number, "weights": shares})
        single = isinstance(prompt, str) and isinstance(seed, int) and _is_one(weights)
        return images[0] if single else images

    def sweep(
        self, prompt: str, start: str, end: str, points: int = 7, seed: int = 0, **options: Any
    ) -> list[Image.Image]:
        """Draw one prompt and noise along the edge from one objective to another.

        options: those of `generate`. Raises WeightError for an unknown objective, naming the
        nearest.
        """
        for name in (start, end):
            if name not in self.names:
                raise WeightError(f"no objective is called {name!r}; {nearest(name, self.names)}")
        path = edge_path(len(self.names), self.names.index(start), self.names.index(end), points)
        return self.generate([prompt], path, seed, **options)

    def apply(
        self, pipe: DiffusionPipeline, weights: OneWeight | None = None, *, force: bool = False
    ) -> Slider:
        """Put the same adapter on your own pipeline, and return its slider.

        `pipe(...)` is then used as ever, inside `with slider.at(weights)`, or at `weights` until
        `hold` changes them. force: also onto another base model, if all shapes fit. Raises
        IntegrityError for another base model.
        """
        slider = _attach(self.file, pipe, force)
        if weights is not None:
            slider.hold(weights)
        return slider

    def hold(self, weights: OneWeight) -> None:
        """Let every later call of the pipeline itself use these weights."""
        self.adapter.set_weights(parse_weights(weights, self.names))

    @contextmanager
    def at(self, weights: Weights) -> Iterator[None]:
        """Let calls of the pipeline itself inside use these weights: one, or one an image."""
        with self.adapter.bind(self._rows(weights)):
            yield

    def export(self, weights: OneWeight, path: str | Path, format: Layout = "diffusers") -> Path:
        """Write the plain LoRA that the adapter is at one weight vector, for tools without morl.

        format: "diffusers" (also read by ComfyUI) or "kohya" (A1111 and others; U-Nets only).
        """
        row = parse_weights(weights, self.names)
        self._note_region(row[None])
        return export_lora(
            self.adapter, row, path, format, pipeline=self.header.base.get("pipeline", "")
        )

    def remove(self) -> None:
        """Take the adapter off the pipeline, which is then as before."""
        self.adapter.remove()

    @torch.no_grad()
    def _draw(
        self,
        prompts: list[str],
        seeds: list[int],
        weights: Callable[[int], Tensor],
        request: _Request,
    ) -> list[Image.Image]:
        family, pipe = self._family, self.pipe
        noise = [
            initial_latents(pipe, family, 1, generator(seed, 0, 0, "latents"), request.size)
            for seed in seeds
        ]
        latents = torch.cat(noise).to(family.denoiser_of(pipe).dtype)
        height, width = latents.shape[-2:]

        def next_weights(_pipe: Any, step: int, _timestep: Any, _state: Any) -> dict[str, Any]:
            if step + 1 < request.steps:
                self.adapter.set_weights(weights(step + 1))
            return {}

        with self.adapter.bind(weights(0)):
            result = pipe(
                **self._encode(prompts).arguments(family.groups(request.guidance) == 2),
                latents=family.pack(latents),
                height=height * pipe.vae_scale_factor,
                width=width * pipe.vae_scale_factor,
                num_inference_steps=request.steps,
                guidance_scale=request.guidance,
                # Only samplers that draw noise on the way read these.
                generator=[generator(seed, 0, 0, "steps") for seed in seeds],
                callback_on_step_end=next_weights,
                output_type="latent",
                return_dict=False,
            )[0]
        images = decode(pipe, family.unpack(result, height, width))
        pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(image) for image in pixels]

    def _schedule(self, weights: Weights | Schedule) -> Callable[[int], Float[Tensor, "rows objective"]]:
        if not callable(weights):
            rows = self._rows(weights)
            return lambda _step: rows
        return lambda step: self._rows(weights(step))

    def _rows(self, weights: Weights) -> Float[Tensor, "rows objective"]:
        single = [weights] if _is_one(weights) else weights
        return torch.stack([parse_weights(one, self.names) for one in single])

    def _note_region(self, rows: Float[Tensor, "rows objective"]) -> None:
        outside = sorted({text for row in rows.tolist() for text in self.header.outside(row)})
        if outside:
            warnings.warn(
                f"outside the weights that training drew: {', '.join(outside)}; what the slider "
                "does there was never trained",
                RegionNote,
                stacklevel=3,
            )

    def _setting(self, name: str, given: float | None) -> float:
        value = self.header.sampling.get(name) if given is None else given
        if value is None:
            raise ConfigError(f"`{name}` must be given: the adapter file does not say it")
        return value


@dataclass(frozen=True)
class _Request:
    """Checked settings of one call of `generate`."""

    steps: int
    guidance: float
    size: tuple[int, int] | None


def load(
    run_or_file: str | Path,
    pipeline: DiffusionPipeline | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    force: bool = False,
) -> Slider:
    """Load a trained slider from a run directory or an adapter file.

    pipeline: your own, instead of the base model that the run or the file names (then `device` and
    `dtype` are its own). force: also onto another base model, if all shapes fit. Raises DataError
    where there is no adapter or its base model cannot be had, IntegrityError for a file that is
    damaged or made for another base.
    """
    path = Path(run_or_file)
    file = path / ADAPTER_FILE if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise DataError(
            f"{path}: holds no {ADAPTER_FILE}, which training writes at its end; resume the run, or "
            "give an adapter file"
        )
    if pipeline is None:
        pipeline = _base_model(path, file, dtype, device)
    return _attach(file, pipeline, force)


def _base_model(
    path: Path, file: Path, dtype: torch.dtype, device: str | torch.device
) -> DiffusionPipeline:
    if path.is_dir() and (path / "config.yaml").is_file():
        base = load_config(path / "config.yaml").base
        return load_pipeline(base.model, base.revision, dtype, device)
    model = read_adapter(file)[0].base.get("model", "unknown")
    try:
        return load_pipeline(model, None, dtype, device)
    except DataError as error:
        raise DataError(f"{file}: {error}; or pass your own: load({str(file)!r}, pipeline=…)") from error


def _attach(file: Path, pipe: DiffusionPipeline, force: bool) -> Slider:
    denoiser = family_of(pipe).denoiser_of(pipe)
    adapter, header = load_adapter(file, denoiser, base_identity(pipe), pipe=pipe, force=force)
    return Slider(pipe, adapter, header, file)


def _is_one(weights: Weights | Schedule) -> bool:
    """Whether this is a single weight vector (or a function, which may return one)."""
    if isinstance(weights, str | Mapping) or callable(weights):
        return True
    if isinstance(weights, Tensor):
        return weights.ndim == 1
    return not weights or isinstance(weights[0], int | float)


def _common_length(**lists: Sequence[Any] | Tensor) -> int:
    count = max(len(entries) for entries in lists.values())
    wrong = [f"{len(entries)} {name}" for name, entries in lists.items() if len(entries) not in (1, count)]
    if wrong or not all(len(entries) for entries in lists.values()):
        found = ", ".join(f"{len(entries)} {name}" for name, entries in lists.items())
        raise ConfigError(f"prompts, weights and seeds must be one, or one an image; got {found}")
    return count
