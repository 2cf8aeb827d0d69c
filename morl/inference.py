"""A trained slider: images at any weight vector, strips along an edge, exports for other tools."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, overload

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from morl.budgets import Budgets, OneBudgets, are_single, budget_list, budget_rows
from morl.config.guidance import GuidanceNote
from morl.config.load import load_config
from morl.diffusion.families import family_of
from morl.diffusion.loading import base_identity, load_pipeline
from morl.diffusion.prompts import PromptCache
from morl.drawing import Settings, draw
from morl.errors import ConfigError, DataError, WeightError
from morl.lora.collapse import Layout, export_lora
from morl.lora.conditioned import ConditionedAdapter
from morl.lora.store import ADAPTER_FILE, AdapterHeader, load_adapter, read_adapter
from morl.weight_inputs import (
    OneWeight,
    Schedule,
    Weights,
    common_length,
    condition_rows,
    is_single,
    weight_schedule,
)
from morl.weights import edge_path
from rewards.errors import nearest

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
        budgets: Budgets | None = None,
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
        budgets: Budgets | None = None,
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
        budgets: Budgets | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        size: tuple[int, int] | None = None,
        batch_size: int = BATCH,
    ) -> Image.Image | list[Image.Image]:
        """Draw images; one prompt, one weight vector and one seed give one image, else a list.

        prompt, weights and seed each serve all images or give one an image. An image's noise is a
        function of its seed alone, so it does not depend on the rest of the batch, but for the
        rounding of batched arithmetic: in fp32 a pixel may differ by 1 of 255. weights may be a
        function of the step; budgets: bounds by name, for all images or one an image, the strictest
        where omitted. steps, guidance, and size, (height, width) in pixels: as trained where None;
        batch_size: images in memory at once. Another guidance than in training is said. Raises
        WeightError for weights that mean nothing and ConfigError for counts that do not fit
        together or budgets that were not trained.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        seeds = [seed] if isinstance(seed, int) else list(seed)
        at = weight_schedule(weights, self.names)
        rows, bounds = at(0), budget_list(budgets, self.adapter.budgets)
        count = common_length(prompts=prompts, weights=rows, seeds=seeds, budgets=bounds)
        slid = budget_rows(bounds, self.adapter.budgets).expand(count, -1)
        prompts, seeds = prompts * (count // len(prompts)), seeds * (count // len(seeds))
        self._note_region(rows)
        self._note_guidance(guidance)
        settings = Settings(
            int(self._setting("steps", steps)),
            self._setting("guidance", guidance),
            self._trained_size() if size is None else size,
        )
        images: list[Image.Image] = []
        for start in range(0, count, batch_size):
            chunk = slice(start, start + batch_size)

            def at_step(step: int, chunk: slice = chunk) -> Tensor:
                return torch.cat([at(step).expand(count, -1), slid], dim=1)[chunk]

            texts, own = self._encode(prompts[chunk]), seeds[chunk]
            images += draw(self.pipe, self._family, self.adapter, texts, at_step, own, settings)
        each = rows.expand(count, -1).tolist()
        for n, image in enumerate(images):
            shares = dict(zip(self.names, each[n], strict=True))
            made = {"prompt": prompts[n], "seed": seeds[n], "weights": shares}
            slid_to = {"budgets": bounds[n % len(bounds)]} if self.adapter.budgets else {}
            image.info["morl"] = json.dumps(made | slid_to)
        one = isinstance(prompt, str) and isinstance(seed, int) and count == 1
        single = (callable(weights) or is_single(weights)) and are_single(budgets)
        return images[0] if one and single else images

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
        self,
        pipe: DiffusionPipeline,
        weights: OneWeight | None = None,
        *,
        budgets: OneBudgets | None = None,
        force: bool = False,
    ) -> Slider:
        """Put the same adapter on your own pipeline, and return its slider.

        `pipe(...)` is then used as ever, inside `with slider.at(weights)`, or at `weights` until
        `hold` changes them; its own default guidance need not be that of training, which
        `header.sampling` holds. force: also onto another base model, if all shapes fit. Raises
        IntegrityError for another base model.
        """
        slider = _attach(self.file, pipe, force)
        if weights is not None:
            slider.hold(weights, budgets)
        return slider

    def hold(self, weights: OneWeight, budgets: OneBudgets | None = None) -> None:
        """Let every later call of the pipeline itself use these weights and budgets."""
        self.adapter.set_weights(self._conditions(weights, budgets))

    @contextmanager
    def at(self, weights: Weights, budgets: Budgets | None = None) -> Iterator[None]:
        """Let calls of the pipeline itself inside use these: one for all, or one an image."""
        with self.adapter.bind(self._conditions(weights, budgets)):
            yield

    def export(
        self,
        weights: OneWeight,
        path: str | Path,
        format: Layout = "diffusers",
        budgets: OneBudgets | None = None,
    ) -> Path:
        """Write the plain LoRA that the adapter is at one weight vector, for tools without morl.

        format: "diffusers" (also read by ComfyUI) or "kohya" (A1111 and others; U-Nets only).
        """
        (row,) = self._conditions(weights, budgets)
        self._note_region(row[None, : len(self.names)])
        return export_lora(
            self.adapter, row, path, format, pipeline=self.header.base.get("pipeline", "")
        )

    def remove(self) -> None:
        """Take the adapter off the pipeline, which is then as before."""
        self.adapter.remove()

    def _conditions(
        self, weights: Weights, budgets: Budgets | None
    ) -> Float[Tensor, "rows condition"]:
        return condition_rows(weights, self.names, budgets, self.adapter.budgets)

    def _note_region(self, rows: Float[Tensor, "rows objective"]) -> None:
        outside = sorted({text for row in rows.tolist() for text in self.header.outside(row)})
        if outside:
            warnings.warn(
                f"outside the weights that training drew: {', '.join(outside)}; what the slider "
                "does there was never trained",
                RegionNote,
                stacklevel=3,
            )

    def _note_guidance(self, drawn: float | None) -> None:
        trained = self.header.sampling.get("guidance")
        if drawn is not None and trained is not None and drawn != trained:
            warnings.warn(
                f"trained at guidance {trained:g} and drawn at {drawn:g}: what the weights do was "
                "learned at the former",
                GuidanceNote,
                stacklevel=3,
            )

    def _trained_size(self) -> tuple[int, int] | None:
        side = self.header.sampling.get("size")
        return None if side is None else (int(side), int(side))

    def _setting(self, name: str, given: float | None) -> float:
        value = self.header.sampling.get(name) if given is None else given
        if value is None:
            raise ConfigError(f"`{name}` must be given: the adapter file does not say it")
        return value


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
            f"{path}: holds no {ADAPTER_FILE}, which training writes at its end; resume the run, "
            "or give an adapter file"
        )
    if pipeline is None:
        pipeline = _base_model(path, file, dtype, device)
    return _attach(file, pipeline, force)


def _base_model(
    path: Path, file: Path, dtype: torch.dtype, device: str | torch.device
) -> DiffusionPipeline:
    if path.is_dir() and (path / "config.yaml").is_file():
        base = load_config(path / "config.yaml").base
        return load_pipeline(base.model, base.revision, dtype, device, config=base.config)
    model = read_adapter(file)[0].base.get("model", "unknown")
    try:
        return load_pipeline(model, None, dtype, device)
    except DataError as error:
        raise DataError(f"{file}: {error}; or pass your own, load(file, pipeline=pipe)") from error


def _attach(file: Path, pipe: DiffusionPipeline, force: bool) -> Slider:
    denoiser = family_of(pipe).denoiser_of(pipe)
    adapter, header = load_adapter(file, denoiser, base_identity(pipe), pipe=pipe, force=force)
    return Slider(pipe, adapter, header, file)
