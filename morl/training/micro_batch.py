"""How many images pass the denoiser at once: an update's memory, apart from its mathematics."""

from __future__ import annotations

import warnings

from morl.errors import ResourceError


class MicroBatchNote(UserWarning):
    """The micro-batch has been made smaller; results stay the same up to rounding."""


class MicroBatch:
    """Splits an update's images into parts of at most `size`; None takes all of them at once."""

    def __init__(self, size: int | None = None) -> None:
        if size is not None and size < 1:
            raise ValueError(f"`size` must be at least 1; got {size}")
        self.size = size

    def parts(self, count: int) -> list[slice]:
        """Return consecutive slices that cover `count` images."""
        size = count if self.size is None else self.size
        return [slice(start, min(start + size, count)) for start in range(0, count, size)]

    def halve(self, count: int) -> None:
        """Make parts half as large after one of `count` images at most did not fit.

        Warns each time. Raises ResourceError where a part is a single image already.
        """
        size = min(count, self.size or count)
        if size == 1:
            raise ResourceError(
                "a single image does not fit into the device's memory: set "
                "base.gradient_checkpointing: true, base.dtype: bfloat16, "
                "base.offload_text_encoders: true or a smaller base.size"
            )
        self.size = size // 2
        warnings.warn(
            f"out of memory with {size} images at once; going on with training.micro_batch = "
            f"{self.size} and the same batch",
            MicroBatchNote,
            stacklevel=3,
        )
