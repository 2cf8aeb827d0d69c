"""Which weight files are refused before a library opens them: pickles, and what is not whole."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from morl.errors import IntegrityError

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def refuse_bad_weights(folder: Path) -> None:
    """Refuse pickles by name where nothing else is there, and by content whatever the name.

    folder: a pipeline's, in diffusers layout. Raises IntegrityError naming the file.
    """
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(path for path in part.iterdir() if path.is_file())
        weights = [path for path in files if path.suffix == ".safetensors"]
        pickles = [path for path in files if path.suffix in PICKLES]
        if pickles and not weights and part.name != "safety_checker":
            raise IntegrityError(
                f"{pickles[0]} is a pickle, which can run code when it is loaded; "
                f"save the pipeline again with save_pretrained(..., safe_serialization=True)"
            )
        for path in weights:
            refuse_bad_safetensors(path)


def refuse_bad_safetensors(path: Path) -> None:
    """Raise IntegrityError unless a file is whole, as its header says; no weight is read."""
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise IntegrityError(
            f"{path} is not a whole safetensors file ({first_line(error)}): truncated, or another "
            "format under that name; download or save it again"
        ) from error


def refuse_pickle(path: Path) -> None:
    """Raise IntegrityError for a file that begins as pickles do, whatever its name."""
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(PICKLE_STARTS):
        raise IntegrityError(
            f"{path} is a pickle, which can run code when it is loaded; take the model's "
            ".safetensors file, which most sites offer beside it"
        )


def first_line(error: Exception) -> str:
    """What an error says, shortened to its first line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
