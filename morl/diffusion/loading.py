"""Load a pipeline from a folder or the Hub, safetensors only, and say which base model it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import diffusers.utils.logging
import torch
import transformers.utils.logging
from diffusers import DDIMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from morl.diffusion.families import FAMILIES, Family, family_of
from morl.diffusion.quantized import DIGEST, Quantize, quantization_of, stored_tensors
from morl.diffusion.single_file import configuration_of, load_single_file, refuse_bad_file
from morl.diffusion.weight_files import first_line, refuse_bad_weights
from morl.errors import ConfigError, DataError, PipelineError

LIBRARIES = (diffusers.utils.logging, transformers.utils.logging)
SHAPES = Path(__file__).parent / "assets" / "shapes"
SIGNS_PER_TENSOR = 64  # enough to tell any two trainings apart, cheap for a large model


def load_pipeline(
    model: str = "shapes",
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    decode: Literal["whole", "sliced", "tiled"] = "whole",
    config: str | None = None,
    quantize: Quantize = "none",
) -> DiffusionPipeline:
    """Return a frozen pipeline in eval mode whose scheduler can be recorded.

    model: "shapes" (the embedded world), a folder in diffusers layout, a Hub id, or a single
    .safetensors file; revision: of a Hub id; dtype: of everything but the autoencoder, which stays
    fp32; decode: image by image (sliced) or in overlapping tiles, to save memory; config: folder or
    Hub id that describes a single file (then `revision` is of that id); quantize: the denoiser of a
    folder or Hub id to 8 or 4 bits. A scheduler that is neither DDIM nor flow matching is replaced
    by DDIM with trailing timesteps. There is no safety checker: safety is a reward or a constraint
    here. Raises DataError if the model cannot be had, IntegrityError for pickled or damaged
    weights, PipelineError for an unsupported class, ConfigError for a quantisation that is not
    installed or not possible.
    """
    file = Path(model) if model != "shapes" and Path(model).is_file() else None
    if file is not None:
        refuse_bad_file(file)
        folder = configuration_of(file, config, revision)
    elif config is not None:
        raise DataError(f"`config` describes a single file; {model!r} is none")
    else:
        folder = _folder(model, revision)
    index = _index(folder)
    family = _declared_family(folder, index)
    refuse_bad_weights(folder)
    # A component saved as absent (SD3 without its T5) must be passed as None to be accepted.
    keywords: dict[str, Any] = {
        name: None for name, entry in index.items() if entry == [None, None]
    }
    if family.pipeline == "StableDiffusionPipeline":
        keywords |= {"safety_checker": None, "requires_safety_checker": False}
    if quantize != "none":
        if file is not None:
            raise ConfigError(f"`quantize` reads a folder in diffusers layout; {model!r} is a file")
        keywords["quantization_config"] = quantization_of(quantize, family.denoiser, dtype)
    with _without_bars():
        if file is None:
            pipe = _from_folder(folder, dtype, keywords)
        else:
            pipe = load_single_file(file, folder, index, dtype, **keywords)
    pipe.register_to_config(_name_or_path=_label(model))
    _make_ready(pipe, family, decode)
    if quantize != "none":
        stored = stored_tensors(folder / family.denoiser)
        pipe.register_to_config(**{DIGEST: _digest(family.denoiser_of(pipe), family, stored)})
    pipe.to(device)
    return pipe


def _make_ready(
    pipe: DiffusionPipeline, family: Family, decode: Literal["whole", "sliced", "tiled"]
) -> None:
    """A recordable scheduler, frozen networks in eval mode, no bars, the decoder as asked for."""
    if type(pipe.scheduler).__name__ != family.scheduler:
        pipe.scheduler = _replaced(pipe, family)
    pipe.set_progress_bar_config(disable=True)
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.requires_grad_(False).eval()
    family_of(pipe)
    if decode == "sliced":
        pipe.vae.enable_slicing()
    elif decode == "tiled":
        pipe.vae.enable_tiling()


def checkpoint_decoder(pipe: DiffusionPipeline) -> None:
    """Recompute the decoder's blocks in a backward pass, where the autoencoder's class can."""
    if pipe.vae._supports_gradient_checkpointing:
        pipe.vae.enable_gradient_checkpointing()


def base_identity(pipe: DiffusionPipeline) -> dict[str, str]:
    """Return which base model a pipeline holds, as strings that can be stored beside an adapter.

    `pipeline`: class; `model`: where it was loaded from, a label for people; `denoiser`: SHA-256
    over the names and shapes of the base parameters and the signs of 64 evenly spaced elements of
    each. Signs do not depend on the dtype the model was loaded in, nor does the digest change when
    an adapter is attached (it does while one is merged), nor on quantisation by `load_pipeline`.
    Compare `pipeline` and `denoiser`. Raises PipelineError for a pipeline quantised elsewhere.
    """
    family = family_of(pipe)
    denoiser: Any = family.denoiser_of(pipe)
    known = pipe.config.get(DIGEST)
    if known is None and denoiser.config.get("quantization_config") is not None:
        raise PipelineError(
            f"the {family.denoiser} is quantised, and no longer tells which model it is; load it "
            "with morl.diffusion.loading.load_pipeline(..., quantize=...)"
        )
    model = str(pipe.name_or_path or "unknown")
    if known is None:
        known = _digest(denoiser, family, denoiser.named_parameters())
    return {"pipeline": family.pipeline, "model": model, "denoiser": known}


def _digest(denoiser: Any, family: Family, tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Of the parameters that the class itself builds, wherever their values are held.

    Parameters that adapters add are not among them, and peft moves a wrapped layer's own to
    `.base_layer.`.
    """
    marks = {name.replace(".base_layer.", "."): _mark(tensor) for name, tensor in tensors}
    with torch.device("meta"):  # without memory
        own = type(denoiser).from_config(denoiser.config).named_parameters()
    digest = hashlib.sha256(family.pipeline.encode())
    for name in sorted(name for name, _ in own):
        digest.update(name.encode() + marks[name])
    return digest.hexdigest()


def _mark(tensor: Tensor) -> bytes:
    flat = tensor.detach().flatten()
    chosen = flat[:: max(1, flat.numel() // SIGNS_PER_TENSOR)]
    return f"{list(tensor.shape)}".encode() + bytes(chosen.signbit().cpu().tolist())


def _from_folder(folder: Path, dtype: torch.dtype, keywords: dict[str, Any]) -> DiffusionPipeline:
    try:
        return DiffusionPipeline.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            dtype={"default": dtype, "vae": torch.float32},
            **keywords,
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder}: incomplete or inconsistent pipeline ({first_line(error)}); save it again "
            "with save_pretrained, without a variant"
        ) from error


@contextmanager
def _without_bars() -> Iterator[None]:
    """No progress bars of the libraries: a few seconds of loading would bury our own lines."""
    shown = [library for library in LIBRARIES if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def _folder(model: str, revision: str | None) -> Path:
    if model == "shapes":
        if not (SHAPES / "model_index.json").is_file():
            raise DataError(
                "the embedded world's base model is missing from the installation; rebuild it "
                "with `morl world train`"
            )
        return SHAPES
    path = Path(model)
    if path.is_dir():
        if revision is not None:
            raise DataError(f"`revision` {revision!r} is for a Hub id; {model!r} is a folder")
        return path
    if model.count("/") != 1 or model.startswith((".", "~", "/")):
        raise DataError(
            f"`model` must be 'shapes', a folder in diffusers layout (with model_index.json), a "
            f".safetensors file or a Hub id 'owner/name'; got {model!r}, which is not there"
        )
    try:
        cached = DiffusionPipeline.download(
            model, revision=revision, use_safetensors=True, safety_checker=None
        )
    except OSError as error:
        command = f"hf download {model}" + (f" --revision {revision}" if revision else "")
        raise DataError(
            f"cannot load {model!r} from the Hub ({first_line(error)}); it needs safetensors "
            f"weights and, once, a connection: run `{command}`, or give a local folder"
        ) from error
    return Path(cached)


def _index(folder: Path) -> dict[str, Any]:
    path = folder / "model_index.json"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is missing or unreadable; a folder in diffusers layout is needed"
        ) from error
    if not isinstance(index, dict) or "_class_name" not in index:
        raise DataError(f"{path} is not a pipeline index: it names no `_class_name`")
    return index


def _declared_family(folder: Path, index: dict[str, Any]) -> Family:
    name = index["_class_name"]
    for family in FAMILIES:
        if family.pipeline == name:
            return family
    known = ", ".join(family.pipeline for family in FAMILIES)
    raise PipelineError(f"{folder}: pipeline class {name!r} is not supported; known: {known}")


def _replaced(
    pipe: DiffusionPipeline, family: Family
) -> DDIMScheduler | FlowMatchEulerDiscreteScheduler:
    config = pipe.scheduler.config
    if family.scheduler == "FlowMatchEulerDiscreteScheduler" and config.get("use_flow_sigmas"):
        # The same flow, by a solver of higher order: its shift is what a schedule needs of it.
        return FlowMatchEulerDiscreteScheduler(shift=config["flow_shift"])
    if family.scheduler != "DDIMScheduler":
        raise PipelineError(
            f"{family.pipeline}: the scheduler must be {family.scheduler}; "
            f"got {type(pipe.scheduler).__name__}"
        )
    # Trailing spacing ends at the clean image; with leading spacing the last of few steps sits at
    # almost no noise, and a reward gradient through it vanishes.
    return DDIMScheduler.from_config(
        config, timestep_spacing="trailing", clip_sample=False, thresholding=False
    )


def _label(model: str) -> str:
    # Named without its place: adapters carry the label to other machines.
    path = Path(model)
    return path.resolve().name if path.exists() else model
