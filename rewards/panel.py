"""Several rewards on one batch: every scorer once, every encoder once, faults named."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rewards.errors import RewardError, RewardFault
from rewards.reward import ImageBatch, Reward, Scores

FaultPolicy = Literal["raise", "mask"]
# Half an 8-bit step: a decoder in half precision may overshoot by that much.
RANGE_TOLERANCE = 0.5 / 255


class MaskedFaultWarning(UserWarning):
    """A scorer failed on samples that are left out from now on; said once for each scorer."""


@dataclass(frozen=True)
class RewardTable:
    """Raw scores of one batch, a column a reward, in the order of `names`.

    `valid` is False where a reward does not apply, or was masked after a fault; its value is then
    0. `std` is the members' disagreement, 0 where a reward has no ensemble. `group` numbers the
    samples that rank() compares; None: all of them.
    """

    values: Float[Tensor, "batch objective"]
    valid: Bool[Tensor, "batch objective"]
    std: Float[Tensor, "batch objective"]
    names: tuple[str, ...]
    group: Int[Tensor, " batch"] | None = None

    def column(self, name: str) -> Scores:
        """The scores of one reward."""
        i = self.names.index(name)
        return Scores(self.values[:, i], self.valid[:, i], self.std[:, i])

    @classmethod
    def joined(cls, tables: Sequence[RewardTable]) -> RewardTable:
        """One table of the rows of several, which have the same columns; groups stay apart."""
        groups, count = [], 0
        for table in tables:
            known, group = table.groups.unique(return_inverse=True)
            groups.append(group + count)
            count += len(known)
        return cls(
            torch.cat([table.values for table in tables]),
            torch.cat([table.valid for table in tables]),
            torch.cat([table.std for table in tables]),
            tables[0].names,
            torch.cat(groups),
        )

    @property
    def groups(self) -> Int[Tensor, " batch"]:
        """The number of each sample's group; 0 for all where none are declared."""
        if self.group is not None:
            return self.group
        return torch.zeros(len(self.values), dtype=torch.long, device=self.values.device)

    def detached(self) -> RewardTable:
        """The same numbers without gradients."""
        return replace(self, values=self.values.detach(), std=self.std.detach())


class Panel:
    """Scores a batch with every reward; the table is on the images' device, in float32.

    `chunk` images at most go through the scorers at once, and the groups that a group-wise reward
    looks at stay whole. `on_fault` "raise" stops at the first fault; "mask" marks faulty samples
    invalid and counts them in `faults`. A masked scorer gives no gradient in that batch: NaN would
    spread through it. `names` are the columns, the rewards' own names where omitted.
    """

    def __init__(
        self,
        rewards: Sequence[Reward],
        chunk: int | None = None,
        on_fault: FaultPolicy = "raise",
        names: Sequence[str] | None = None,
    ) -> None:
        self.rewards = tuple(rewards)
        self.names = tuple(names or [reward.name for reward in rewards])
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if not rewards or repeated:
            found = f"repeated: {', '.join(repeated)}" if repeated else "none"
            raise ValueError(f"`rewards` must be distinct and at least one; got {found}")
        if chunk is not None and chunk < 1:
            raise ValueError(f"`chunk` must be at least 1; got {chunk}")
        if on_fault not in ("raise", "mask"):
            raise ValueError(f"`on_fault` must be 'raise' or 'mask'; got {on_fault!r}")
        self.chunk = chunk
        self.on_fault = on_fault
        self.faults = dict.fromkeys(self.names, 0)

    def __call__(self, batch: ImageBatch) -> RewardTable:
        """Score the batch; raises RewardFault naming the scorer and the first bad prompt.

        Raises ValueError for images outside [0, 1], whose scores would be plausible and wrong.
        """
        _refuse_other_scales(batch.images)
        if self.chunk is None or self.chunk >= len(batch):
            return self._table(batch)
        whole_groups = any(reward.facts.granularity == "group" for reward in self.rewards)
        parts = _parts(batch, self.chunk, whole_groups)
        table = RewardTable.joined([self._table(_rows(batch, part)) for part in parts])
        back = torch.tensor([i for part in parts for i in part]).argsort().to(table.values.device)
        return RewardTable(
            table.values[back],
            table.valid[back],
            table.std[back],
            self.names,
            _group_numbers(batch),
        )

    def _table(self, batch: ImageBatch) -> RewardTable:
        columns = [
            self._scores(name, reward, batch)
            for name, reward in zip(self.names, self.rewards, strict=True)
        ]
        zeros = torch.zeros(len(batch), device=batch.images.device)
        return RewardTable(
            torch.stack([column.values for column in columns], dim=1),
            torch.stack([column.valid for column in columns], dim=1),
            torch.stack([zeros if c.std is None else c.std for c in columns], dim=1),
            self.names,
            _group_numbers(batch),
        )

    def _scores(self, name: str, reward: Reward, batch: ImageBatch) -> Scores:
        every = torch.ones(len(batch), dtype=torch.bool, device=batch.images.device)
        try:
            scores = reward.score(batch)
        except (RewardError, MemoryError, torch.OutOfMemoryError):
            raise  # a missing extra or a full device is no fault of a sample
        except Exception as error:
            if self.on_fault == "mask":
                return self._masked(name, Scores.of(torch.zeros_like(every).float()), every, error)
            prompt = _first_offender(reward, batch)
            raise RewardFault(
                f"reward {name!r} raised {type(error).__name__}: {error} (first offending prompt: "
                f"{prompt!r})"
            ) from error
        fault = _shape_fault(scores, len(batch)) or _gradient_fault(reward, scores, batch)
        if fault:
            raise RewardFault(f"reward {name!r} {fault} (first prompt: {batch.prompts[0]!r})")
        scores = _placed(scores, batch.images.device, reward.facts.differentiable)
        bad = ~_finite(scores)
        if bad.any():
            first = int(bad.nonzero()[0])
            nonfinite = RewardFault(
                f"reward {name!r} returned {_describe(scores, first)} for prompt "
                f"{batch.prompts[first]!r}; where a reward does not apply it says valid=False with "
                "any finite value"
            )
            if self.on_fault == "raise":
                raise nonfinite
            return self._masked(name, scores, bad, nonfinite)
        return _zero_where_invalid(scores)

    def _masked(
        self, name: str, scores: Scores, bad: Bool[Tensor, " batch"], fault: Exception
    ) -> Scores:
        if not self.faults[name]:
            warnings.warn(
                f"reward {name!r} failed and is masked from now on where it fails; the first "
                f"fault: {fault}",
                MaskedFaultWarning,
                stacklevel=5,
            )
        self.faults[name] += int(bad.sum())
        std = None if scores.std is None else scores.std.detach()
        return _zero_where_invalid(Scores(scores.values.detach(), scores.valid & ~bad, std))


def _group_numbers(batch: ImageBatch) -> Int[Tensor, " batch"] | None:
    if batch.group is None:
        return None
    numbers: dict[Hashable, int] = {}
    counted = [numbers.setdefault(key, len(numbers)) for key in batch.group]
    return torch.tensor(counted, device=batch.images.device)


def _refuse_other_scales(images: Float[Tensor, "batch 3 height width"]) -> None:
    low, high = (end.item() for end in images.detach().aminmax())
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        raise ValueError(
            f"`images` must lie in [0, 1]; got {low:g} .. {high:g}: scale them where they are made"
        )


def _shape_fault(scores: Scores, count: int) -> str | None:
    """A wrong shape is a mistake in the code, whatever the sample: no policy masks it."""
    for what, tensor in (("values", scores.values), ("valid", scores.valid), ("std", scores.std)):
        if tensor is not None and tensor.shape != (count,):
            return f"must return {what} of shape [{count}]; got {list(tensor.shape)}"
    return None


def _gradient_fault(reward: Reward, scores: Scores, batch: ImageBatch) -> str | None:
    wanted = batch.images.requires_grad and torch.is_grad_enabled()
    if wanted and reward.facts.differentiable and not scores.values.requires_grad:
        return "declares differentiable=True, but its values carry no gradient"
    return None


def _placed(scores: Scores, device: torch.device, differentiable: bool) -> Scores:
    values = scores.values if differentiable else scores.values.detach()
    std = None if scores.std is None else scores.std.to(device, torch.float32)
    return Scores(values.to(device, torch.float32), scores.valid.to(device), std)


def _finite(scores: Scores) -> Bool[Tensor, " batch"]:
    finite = torch.isfinite(scores.values)
    if scores.std is None:
        return finite
    return finite & torch.isfinite(scores.std) & (scores.std >= 0)


def _describe(scores: Scores, i: int) -> str:
    value = f"{scores.values[i].item():g}"
    return value if scores.std is None else f"{value} with std {scores.std[i].item():g}"


def _zero_where_invalid(scores: Scores) -> Scores:
    def zeroed(values: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        return torch.where(scores.valid, values, torch.zeros_like(values))

    std = None if scores.std is None else zeroed(scores.std)
    return Scores(zeroed(scores.values), scores.valid, std)


def _first_offender(reward: Reward, batch: ImageBatch) -> str:
    """The first prompt that the scorer raises on alone; the batch's first where none does."""
    if reward.facts.granularity != "sample" or len(batch) == 1:
        return batch.prompts[0]
    alone = (i for i in range(len(batch)) if _raises(reward, _rows(batch, [i])))
    return batch.prompts[next(alone, 0)]


def _raises(reward: Reward, batch: ImageBatch) -> bool:
    try:
        with torch.no_grad():
            reward.score(batch)
    except Exception:
        return True
    return False


def _parts(batch: ImageBatch, size: int, whole_groups: bool) -> list[list[int]]:
    """Rows that go through the scorers together: at most `size`, unless one group is larger."""
    keys: Sequence[Hashable] = range(len(batch))
    if whole_groups:
        keys = batch.prompts if batch.group is None else batch.group
    groups: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    parts: list[list[int]] = [[]]
    for group in groups.values():
        if parts[-1] and len(parts[-1]) + len(group) > size:
            parts.append([])
        parts[-1].extend(group)
    return parts


def _rows(batch: ImageBatch, rows: Sequence[int]) -> ImageBatch:
    """Part of a batch, with a memory of its own."""
    return ImageBatch(
        batch.images[list(rows)],
        [batch.prompts[i] for i in rows],
        None if batch.metadata is None else [batch.metadata[i] for i in rows],
        None if batch.group is None else [batch.group[i] for i in rows],
    )
