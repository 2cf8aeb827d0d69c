"""Score image files in batches: what fails is set apart and named, what is done stays done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from tqdm import tqdm

from morl.prompts import records
from morl.scoring.batches import Broken, Unit, groups_of, read_batches
from morl.scoring.folder import Item
from morl.scoring.rows import Partial, Row, stamp_of
from rewards.errors import RewardError, RewardFault
from rewards.panel import Panel, RewardTable
from rewards.reward import ImageBatch, Reward

# Of some samples, or too much for the memory at once; anything else is a mistake in the code.
_FAULTS = (RewardError, MemoryError, torch.OutOfMemoryError)


@dataclass
class Faults:
    """What could not be scored in one run, by file."""

    broken: dict[str, str] = field(default_factory=dict)
    """Files that cannot be read."""
    failed: dict[str, str] = field(default_factory=dict)
    """Images that at least one reward raised on, or gave no number."""


@torch.no_grad()
def score_items(
    items: Sequence[Item], rewards: Sequence[Reward], partial: Partial, batch_size: int
) -> Faults:
    """Score every item that `partial` lacks; each batch is kept as soon as it is scored.

    Images of one size go through the rewards together, each encoder once a batch. Where a batch
    raises, its images are scored one by one and reward by reward, so that only those cells stay
    empty which cannot be filled. Group-wise rewards see all images of a prompt at once.
    """
    together = any(reward.facts.granularity == "group" for reward in rewards)
    todo = [
        group
        for group in groups_of(items, together)
        if not all(partial.done(item) for item in group)
    ]
    left = sum(map(len, todo))
    faults = Faults()
    with tqdm(total=len(items), initial=len(items) - left, desc="score", unit="image") as bar:
        for batch in read_batches(todo, batch_size):
            if isinstance(batch, Broken):
                rows = [_row(item, error=batch.reason) for item in batch.items]
                faults.broken |= {row.file: row.error for row in rows}
            else:
                rows = _scored(batch, rewards)
                faults.failed |= {row.file: row.error for row in rows if row.error}
            partial.append(rows)
            bar.update(len(rows))
    return faults


def _scored(units: Sequence[Unit], rewards: Sequence[Reward]) -> list[Row]:
    items = [item for unit in units for item in unit.items]
    try:
        table = Panel(rewards)(_batch(units))
    except _FAULTS:
        return [row for unit in units for row in _one_by_one(unit, rewards)]
    return [_row(item, table, i) for i, item in enumerate(items)]


def _one_by_one(unit: Unit, rewards: Sequence[Reward]) -> list[Row]:
    """What can be filled of a unit's cells; the batch is the same, so encoders run once still."""
    batch = _batch([unit])
    rows = [_row(item) for item in unit.items]
    for reward in rewards:
        try:
            table = Panel([reward])(batch)
        except _FAULTS as error:
            said = "; ".join(filter(None, [rows[0].error, _said(reward.name, error)]))
            rows = [replace(row, error=said) for row in rows]
        else:
            rows = [_joined(row, table, i) for i, row in enumerate(rows)]
    return rows


def _batch(units: Sequence[Unit]) -> ImageBatch:
    prompts = [item.prompt or "" for unit in units for item in unit.items]
    return ImageBatch(torch.cat([unit.images for unit in units]), prompts, records(prompts))


def _row(item: Item, table: RewardTable | None = None, i: int = 0, error: str = "") -> Row:
    row = Row(item.name, item.prompt, stamp_of(item), error=error)
    return row if table is None else _joined(row, table, i)


def _joined(row: Row, table: RewardTable, i: int) -> Row:
    """The row with the scores of line i of the table that apply."""
    applies = [column for column, valid in enumerate(table.valid[i].tolist()) if valid]
    values = {table.names[c]: table.values[i, c].item() for c in applies}
    # A reward without an ensemble has zeros throughout.
    stds = {table.names[c]: table.std[i, c].item() for c in applies if table.std[:, c].any()}
    return replace(row, values={**row.values, **values}, stds={**row.stds, **stds})


def _said(name: str, error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, RewardFault) else f"{name}: {text}"
