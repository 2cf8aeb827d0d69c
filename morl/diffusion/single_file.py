"""Pipelines from one file, as model sites publish them; what it lacks comes from a configuration.

A single file holds tensors in their authors' names, but no tokenizer, no scheduler and no sizes.
diffusers reads those from a pipeline in its own layout, of which JSON and vocabularies suffice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from diffusers.loaders.single_file_utils import (
    DIFFUSERS_DEFAULT_PIPELINE_PATHS,
    LDM_VAE_KEYS,
    SingleFileComponentError,
    infer_diffusers_model_type,
    is_clip_model_in_single_file,
    is_t5_in_single_file,
)
from huggingface_hub import snapshot_download
from safetensors import safe_open
from torch import Tensor, nn

from morl.diffusion.weight_files import first_line, refuse_bad_safetensors, refuse_pickle
from morl.errors import DataError, IntegrityError

CONFIGURATION = ("*.json", "*.txt", "*.model")  # of a pipeline: everything but weights
FALLBACK = "v1"  # what diffusers takes a file for that it does not recognise
U_NET = "model.diffusion_model.input_blocks."
LISTED = 5


def refuse_bad_file(file: Path) -> None:
    """Refuse a pickle, told by its content, a file that is not whole, and a misleading name.

    Raises IntegrityError, and DataError for a safetensors file of another suffix, which diffusers
    would open as a pickle.
    """
    refuse_pickle(file)
    refuse_bad_safetensors(file)
    if file.suffix != ".safetensors":
        raise DataError(f"{file}: holds safetensors; rename it to {file.stem}.safetensors")


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
    file: Path, folder: Path, index: dict[str, Any], dtype: torch.dtype, **given: Any
) -> DiffusionPipeline:
    """Read a file's tensors into the pipeline that `folder` and its index describe.

    dtype: of everything but the autoencoder, which is read in fp32; given: components that stand
    in for the file's own. An autoencoder or text encoder that the file lacks is read from `folder`.
    Raises DataError for a file of another model, IntegrityError for missing tensors.
    """
    options: dict[str, Any] = {"config": str(folder), "local_files_only": True}
    pipeline: Any = getattr(diffusers, index["_class_name"])
    given |= _from_folder(file, folder, index, dtype)
    try:
        if "vae" not in given:
            autoencoder: Any = getattr(diffusers, index["vae"][1])
            given["vae"] = autoencoder.from_single_file(
                str(file), subfolder="vae", torch_dtype=torch.float32, **options
            )
        pipe: DiffusionPipeline = pipeline.from_single_file(
            str(file), torch_dtype=dtype, **options, **given
        )
    except (SingleFileComponentError, OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{file} does not hold the {index['_class_name']} that {folder} describes "
            f"({first_line(error)}); give base.config, the diffusers folder or Hub id of the model "
            "it was made from"
        ) from error
    except NotImplementedError as error:  # a parameter without values was moved
        raise _lacking(file, _unfilled(file, folder, index)) from error
    empty = [
        f"{part}.{name}"
        for part, network in pipe.components.items()
        if isinstance(network, nn.Module)
        for name, parameter in network.named_parameters()
        if parameter.is_meta
    ]
    if empty:  # a text encoder is not moved
        raise _lacking(file, empty)
    return pipe


def _from_folder(
    file: Path, folder: Path, index: dict[str, Any], dtype: torch.dtype
) -> dict[str, Any]:
    """The autoencoder and the text encoders that the folder has weights of and the file has not."""
    tensors = _without_values(file)
    found: dict[str, Any] = {}
    for name, entry in index.items():
        text = name.startswith("text_encoder")
        if not (text or name == "vae") or not any((folder / name).glob("*.safetensors")):
            continue
        kind: Any = getattr(transformers if text else diffusers, entry[1])
        if text:
            t5 = kind is transformers.T5EncoderModel and is_t5_in_single_file(tensors)
            held = t5 or is_clip_model_in_single_file(kind, tensors)
        else:
            held = any(key.startswith(tuple(LDM_VAE_KEYS)) for key in tensors)
        if not held:
            found[name] = kind.from_pretrained(
                folder / name,
                dtype=dtype if text else torch.float32,
                use_safetensors=True,
                local_files_only=True,
            )
    return found


def _lacking(file: Path, names: list[str]) -> IntegrityError:
    return IntegrityError(
        f"{file} lacks {len(names)} tensors, such as {', '.join(names[:LISTED])}; download it "
        "again, or give the base.config of the model it was made from"
    )


def _unfilled(file: Path, folder: Path, index: dict[str, Any]) -> list[str]:
    """Parameters of denoiser and autoencoder that no tensor of the file is for."""
    missing = []
    for part in index.keys() & {"unet", "transformer", "vae"}:
        kind: Any = getattr(diffusers, index[part][1])
        config = kind.load_config(folder / part)
        with torch.device("meta"):
            own = kind.from_config(config).state_dict().keys()
        renamed = SINGLE_FILE_LOADABLE_CLASSES[kind.__name__]["checkpoint_mapping_fn"]
        held = renamed(checkpoint=_without_values(file), config=config).keys()
        missing += [f"{part}.{name}" for name in own - held]
    return sorted(missing)


def _original(file: Path) -> str:
    """The hub id of the model that a file's tensor names tell of."""
    tensors = _without_values(file)
    kind = infer_diffusers_model_type(tensors)
    if kind == FALLBACK and not any(name.startswith(U_NET) for name in tensors):
        names = ", ".join(sorted(tensors)[:LISTED])
        raise DataError(
            f"{file}: holds no model whose layout diffusers knows, but {names}, ...; a LoRA goes "
            "into adapter.init_from or adapter.beside"
        )
    repo: str = DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]
    return repo


def _without_values(file: Path) -> dict[str, Tensor]:
    """A file's tensors by name, of their shapes; nothing but the header is read."""
    with safe_open(file, framework="pt") as tensors:
        return {
            name: torch.empty(tensors.get_slice(name).get_shape(), device="meta")
            for name in tensors.keys()  # noqa: SIM118 (no mapping)
        }
