"""What the simulated annotators said, as the inputs and targets of a head."""

from __future__ import annotations

import torch

from rewards.encoders import Encoder
from rewards.learned.inputs import head_inputs
from rewards.learned.labels import Labelled
from rewards.learned.settings import WORLD_READS_PROMPT, WORLD_TASKS
from rewards.reward import ImageBatch
from rewards.shapes.labels import Labels

AT_ONCE = 500


@torch.no_grad()
def labelled(kind: str, labels: Labels, encoder: Encoder) -> Labelled:
    """The labels of one `kind` of question (a key of `WORLD_TASKS`), on features of `encoder`.

    For alignment every picture counts twice: with its prompt, and with the changed one.
    """
    reads_prompt = kind in WORLD_READS_PROMPT
    asked = (labels.prompts, labels.changed) if reads_prompt else (labels.prompts,)
    batches = [
        ImageBatch(labels.images[start : start + AT_ONCE], prompts[start : start + AT_ONCE])
        for prompts in asked
        for start in range(0, len(prompts), AT_ONCE)
    ]
    inputs = torch.cat([head_inputs(encoder, batch, reads_prompt).cpu() for batch in batches])
    each = torch.arange(len(inputs))
    match kind:
        case "aesthetic":
            return Labelled("regression", inputs, labels.ratings, each)
        case "alignment":
            return Labelled("regression", inputs, labels.matches.T.flatten(), each)
        case "preference":
            chosen = labels.chosen.float()
            return Labelled("preference", inputs, chosen, labels.first, labels.second)
        case "unsafe":
            return Labelled("classification", inputs, labels.unsafe.float(), each)
    raise ValueError(f"`kind` must be one of {', '.join(WORLD_TASKS)}; got {kind!r}")
