"""Learn a reward from labels: heads on frozen features, calibrated, measured, with its doubt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rewards.learned.average import averaged_head
from rewards.learned.card import Card
from rewards.learned.fit import Descent, Validation, fit_members
from rewards.learned.head import EnsembleHead
from rewards.learned.labels import Labelled, Split, require_usable, split, with_noise
from rewards.learned.last_layer import LastLayer, laplace, laplace_of_choices, mahalanobis
from rewards.learned.losses import fit_platt
from rewards.learned.measures import accuracy, calibration_error, correlation
from rewards.learned.model import RewardModel
from rewards.learned.settings import RewardTraining, RewardTrainingError
from rewards.members import require_disagreement
from rewards.reliability import Reliability, reliability, reliability_of_answers


@dataclass(frozen=True)
class Learned:
    """A trained reward, and what labels that took no part in training say of it.

    steps: at which step each member was best; doubt: its uncertainty judged, None where it has
    none; left_out: choices between images of different parts, which nobody saw.
    """

    model: RewardModel
    steps: list[int]
    doubt: Reliability | None
    counts: Mapping[str, int]
    left_out: int


def train_reward(
    labels: Labelled | Split,
    card: Card,
    probe: Float[Tensor, " feature"],
    training: RewardTraining | None = None,
) -> Learned:
    """Fit a head to labels and say how good it is on others.

    labels: split at random by `training.held_out`, or split already; card: task, encoder and
    declared facts, the rest is filled in; probe: the encoder's `fingerprint`. Everything random
    follows from `training.seed`. Features are held in memory, and every step sees all labels.
    Raises RewardTrainingError naming each bad setting or label, NoProtectionError for members
    that come out equal where their disagreement is asked for.
    """
    training = training or RewardTraining()
    if problems := training.problems():
        raise RewardTrainingError("\n".join(problems))
    generator = torch.Generator().manual_seed(training.seed)
    parts = _prepared(labels, training, generator)
    head, starts, steps = _fitted(parts, training, generator)
    if training.average:
        head = averaged_head(head)
    head.eval().requires_grad_(False)
    _calibrate(head, parts)
    outputs = head(parts.train.inputs)
    if training.uncertainty == "members":
        require_disagreement(outputs)
    full = replace(
        card,
        task=parts.train.task,
        members=head.members,
        hidden=training.hidden,
        features=parts.train.inputs.shape[1],
        uncertainty=training.uncertainty,
        initialisations=tuple(starts),
        averaged=training.members if training.average else 0,
        training=asdict(training),
    )
    last = _last_layer(head, parts, training)
    model = RewardModel(full, head, probe, outputs.mean(0), _spread(outputs), last)
    measures, doubt = _measured(model, parts.test)
    model = replace(model, card=replace(full, measures=measures))
    counts = {name: len(part) for name, part in parts.parts.items()}
    return Learned(model, steps, doubt, counts, parts.left_out)


def _prepared(
    labels: Labelled | Split, training: RewardTraining, generator: torch.Generator
) -> Split:
    share = training.label_noise
    if isinstance(labels, Split):
        return require_usable(labels.mapped(lambda part: with_noise(part, share, generator)))
    return split(with_noise(labels, share, generator), training.held_out, generator)


def _fitted(
    parts: Split, training: RewardTraining, generator: torch.Generator
) -> tuple[EnsembleHead, tuple[str, ...], list[int]]:
    """Members fitted to the training part, the digests of their starts, and their best steps."""
    train, validation = parts.train, parts.validation
    if train.task == "regression":  # in standard units, whatever those of the ratings are
        mean, std = _scale(parts)
        train, validation = (
            replace(part, target=(part.target - mean) / std) for part in (train, validation)
        )
    features = train.inputs.shape[1]
    shared = training.average or training.shared_start
    head = EnsembleHead(training.members, features, training.hidden, generator, shared)
    head.standardise(train.inputs)
    if training.subspace < 1:
        head.restrict(_subspaces(training, features, generator))
    starts = head.initialisations()
    descent = Descent(
        training.steps,
        training.learning_rate,
        training.weight_decay,
        training.patience,
        training.bootstrap,
    )
    look = Validation(validation.inputs, validation.losses)
    steps = fit_members(head, train.inputs, train.losses, descent, generator, look)
    return head, starts, steps


def _subspaces(
    training: RewardTraining, features: int, generator: torch.Generator
) -> Bool[Tensor, "member feature"]:
    draws = torch.rand(training.members, features, generator=generator)
    kept = max(1, round(training.subspace * features))
    return draws.argsort(1).argsort(1) < kept


def _scale(parts: Split) -> tuple[float, float]:
    return parts.train.target.mean().item(), parts.train.target.std().item()


@torch.no_grad()
def _calibrate(head: EnsembleHead, parts: Split) -> None:
    """Bring the outputs to their units, in place: ratings, or logits that validation bears out."""
    validation = parts.validation
    if validation.task == "regression":
        mean, std = _scale(parts)
        head.rescale(std, mean)
        return
    logits = validation.of_items(head(validation.inputs))
    if validation.task == "preference":  # judged as they are delivered: averaged as z-scores
        spread = _spread(head(parts.train.inputs))
        logits = (spread.mean() * logits / spread).mean(1, keepdim=True)
    slope, offset = fit_platt(*validation.balanced(logits))
    # Both orders of a choice leave no offset but rounding.
    head.rescale(slope, 0.0 if validation.task == "preference" else offset)


def _spread(outputs: Float[Tensor, "image member"]) -> Float[Tensor, " member"]:
    return outputs.std(0).clamp(min=1e-12)


@torch.no_grad()
def _last_layer(head: EnsembleHead, parts: Split, training: RewardTraining) -> LastLayer | None:
    if training.uncertainty not in ("laplace", "mahalanobis"):
        return None
    train, validation = parts.train, parts.validation
    phi, items = head.last_features(train.inputs)[:, 0], train.of_items(head(train.inputs)[:, 0])
    weights, p = head.outer[0], torch.sigmoid(items)
    if train.task == "regression":
        # On labels that were not fitted: the residuals of the others are too small.
        residuals = validation.of_items(head(validation.inputs)[:, 0]) - validation.target
        noise = residuals.square().mean().clamp(min=1e-12)
        found = laplace(phi[train.first], torch.ones_like(items) / noise, weights)
    elif train.second is None:
        found = laplace(phi[train.first], p * (1 - p), weights)
    else:
        first, second = phi[train.first], phi[train.second]
        found = laplace_of_choices(first, second, p * (1 - p), weights, phi.mean(0))
    if training.uncertainty == "laplace":
        return found
    return mahalanobis(phi, found, head.last_features(validation.inputs)[:, 0])


@torch.no_grad()
def _measured(model: RewardModel, test: Labelled) -> tuple[dict[str, float], Reliability | None]:
    judged = model.card.uncertainty != "none"
    if test.task == "regression":
        values, std = model.score(test.inputs[test.first])
        error = (values - test.target).square().mean().sqrt().item()
        measures = {"r": correlation(values, test.target), "rmse": error}
        return measures, reliability(values, std, test.target) if judged else None
    if test.second is None:
        probability, std = model.score(test.inputs[test.first])
        logits = torch.logit(probability.double(), eps=1e-12)
    else:
        logits, std = model.margin(test.inputs[test.first], test.inputs[test.second])
    doubled, answers = test.balanced(logits)
    probability = torch.sigmoid(doubled)
    measures = {
        "accuracy": accuracy(doubled, answers),
        "ece": calibration_error(probability, answers),
    }
    if not judged:
        return measures, None
    known = torch.sigmoid(logits), std, test.target > 0.5
    return measures, reliability_of_answers(*known)
