"""What a user's pointwise function is worth on samples, with its faults named."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rewards.errors import RewardFault
from rewards.ranges import bounds
from rewards.reward import Scores
from rewards.user_functions import Apply


def applied(node: Apply, parts: Sequence[Scores], valid: Bool[Tensor, " batch"]) -> Scores:
    """Call the function on the samples that apply; 0 elsewhere.

    Disagreement: what each argument's own moves the value by, added up,
    std = sum_j |f(.., x_j + std_j, ..) - f(.., x_j - std_j, ..)| / 2, inside the arguments' ranges.
    Raises RewardFault where the function raises, returns another shape or a number that is not
    finite, and where it declares a gradient and gives none.
    """
    values = [part.values for part in parts]
    spread = torch.zeros_like(values[0])
    for j, (part, child) in enumerate(zip(parts, node.parts, strict=True)):
        if part.std is None or not part.std.any():
            continue
        low, high = bounds(child)
        ends = [
            _called(node, [*values[:j], moved.clamp(low, high), *values[j + 1 :]], valid)
            for moved in (part.values - part.std, part.values + part.std)
        ]
        spread = spread + (ends[1] - ends[0]).abs() / 2
    return Scores(_called(node, values, valid), valid, spread)


def _called(
    node: Apply, arguments: list[Float[Tensor, " batch"]], valid: Bool[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Where nothing applies a logarithm or a root may have no value, and must not be asked."""
    result = torch.zeros_like(arguments[0])
    if not valid.any():
        return result
    seen = [argument[valid] for argument in arguments]
    function = node.function
    if not function.differentiable:
        seen = [argument.detach() for argument in seen]
    try:
        found = function.function(*seen)
    except Exception as error:
        raise RewardFault(f"{node} raised {type(error).__name__}: {error}") from error
    if not isinstance(found, Tensor) or found.shape != seen[0].shape:
        got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise RewardFault(f"{node} must return a tensor of shape {list(seen[0].shape)}; got {got}")
    if not torch.isfinite(found).all():
        i = int((~torch.isfinite(found)).nonzero()[0])
        given = ", ".join(f"{argument[i].item():g}" for argument in seen)
        raise RewardFault(f"{node} is {found[i].item():g} at ({given})")
    asked = torch.is_grad_enabled() and any(argument.requires_grad for argument in seen)
    if asked and not found.requires_grad:
        raise RewardFault(f"{node} declares differentiable=True, but its values carry no gradient")
    if not function.differentiable:
        found = found.detach()
    return result.index_put((valid,), found.to(result))
