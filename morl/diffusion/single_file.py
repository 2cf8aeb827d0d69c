"""Pipelines from one file, as model sites publish them; what it lacks comes from a configuration.

A single file holds tensors in their authors' names, but no tokenizer, no scheduler and no sizes.
diffusers reads those from a pipeline in its own layout, of which JSON and vocabularies suffice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.single_file_utils import (
    DIFFUSERS_DEFAULT_PIPELINE_PATHS,
    SingleFileComponentError,
    infer_diffusers_model_type,
)
from huggingface_hub import snapshot_download
from safetensors import safe_open

from morl.diffusion.weight_files import first_line, refuse_bad_safetensors, refuse_pickle
from morl.errors import DataError, IntegrityError

CONFIGURATION = ("*.json", "*.txt", "*.model")  # of a pipeline: everything but weights
FALLBACK = "v1"  # what diffusers takes a file for that it does not recognise
U_NET = "model.diffusion_model.input_blocks."
LISTED = 5


def refuse_bad_file(file: Path) -> None:
    """Raise IntegrityError for a pickle, told by its content, and for a file that is not whole."""
    refuse_pickle(file)
    refuse_bad_safetensors(file)


def configuration_of(file: Path, config: str | None, revision: str | None) -> Path:
    """Return the folder, in diffusers layout, that describes a single file.

    config: such a folder, or a hub id whose JSON and vocabularies are fetched once; None: the
    original model that the file's tensor names tell of. Raises DataError where it cannot be had.
    """
    if config is not None and Path(config).is_dir():
        if revision is not None:
            raise DataError(f"`revision` {revision!r} is for a Hub id; {config!r} is a folder")
        return Path(config)
    if config is not None and config.count("/") != 1:
        raise DataError(
            f"`config` must be a folder in diffusers layout or a Hub id 'owner/name'; got "
            f"{config!r}, which is not there"
        )
    repo = config or _original(file)
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(CONFIGURATION)))
    except (OSError, ValueError) as error:
        included = " ".join(f"--include '{pattern}'" for pattern in CONFIGURATION)
        at = f" --revision {revision}" if revision else ""
        raise DataError(
            f"{file}: a single file holds no tokenizer, scheduler or sizes, and those of {repo!r} "
            f"cannot be had ({first_line(error)}): run `hf download {repo}{at} {included}` once, "
            "or give base.config, a local folder in diffusers layout"
        ) from error


def load_single_file(
    file: Path, name: str, folder: Path, index: dict[str, Any], dtype: torch.dtype, **given: Any
) -> DiffusionPipeline:
    """Read a file's tensors into a pipeline of class `name`, described by `folder` and its index.

    dtype: of everything but the autoencoder, which is read in fp32; given: components that stand
    in for the file's own. Components that the file lacks are read from `folder` where it has their
    weights. Raises DataError for a file of another model, IntegrityError for missing tensors.
    """
    options: dict[str, Any] = {"config": str(folder), "local_files_only": True}
    autoencoder: Any = getattr(diffusers, index["vae"][1])
    pipeline: Any = getattr(diffusers, name)
    try:
        vae = autoencoder.from_single_file(
            str(file), subfolder="vae", torch_dtype=torch.float32, **options
        )
        pipe = pipeline.from_single_file(str(file), vae=vae, torch_dtype=dtype, **options, **given)
    except (SingleFileComponentError, OSError, ValueError, KeyError, NotImplementedError) as error:
        raise DataError(
            f"{file} does not hold the {name} that {folder} describes ({first_line(error)}); give "
            "base.config, the diffusers folder or Hub id of the model it was made from"
        ) from error
    _refuse_missing(file, pipe)
    return pipe


def _original(file: Path) -> str:
    """The hub id of the model that a file's tensor names tell of."""
    with safe_open(file, framework="pt") as tensors:
        shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    kind = infer_diffusers_model_type(
        {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    )
    if kind == FALLBACK and not any(name.startswith(U_NET) for name in shapes):
        names = ", ".join(sorted(shapes)[:LISTED])
        raise DataError(
            f"{file}: holds no model whose layout diffusers knows, but {names}, ...; a LoRA goes "
            "into adapter.init_from or adapter.beside"
        )
    repo: str = DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]
    return repo


def _refuse_missing(file: Path, pipe: DiffusionPipeline) -> None:
    """Tensors that a file lacks stay without values: they are on the meta device."""
    empty = [
        f"{part}.{name}"
        for part, component in pipe.components.items()
        if isinstance(component, torch.nn.Module)
        for name, parameter in component.named_parameters()
        if parameter.is_meta
    ]
    if empty:
        raise IntegrityError(
            f"{file} lacks {len(empty)} tensors, such as {', '.join(empty[:LISTED])}; download it "
            "again, or give the base.config of the model it was made from"
        )
