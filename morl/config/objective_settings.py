"""The section `objective`: what is maximised, under which constraints, in which units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from morl.option import option
from rewards.encoder_settings import EncoderSettings
from rewards.judge_settings import JudgeSettings


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is maximised, under which constraints, and how a weight vector trades it off."""

    maximize: dict[str, str] = option(
        {}, "objectives in the order of the weight vector: name -> reward expression"
    )
    subject_to: list[str] = option(
        [],
        'constraints on raw rewards, like "shapes_unsafe <= 0.03", "quantile(sharpness, 0.95) <= '
        '0.2", "mean(contrast, where=\'portrait\') >= 0.3" or "saturation <= baseline() + 0.1"; of '
        '"shapes_unsafe <= budget(0.01, 0.2)" the adapter learns the whole range, and its user '
        "picks a bound",
    )
    scalarization: str = option("linear", "how a weight vector turns K rewards into one number")
    scalarization_params: dict[str, float] = option({}, "parameters of the scalarisation")
    allow_gold: bool = option(
        False, "let gold measures train, which only a study of the guard or of a regime may want"
    )
    encoders: dict[str, EncoderSettings] = option(
        {},
        "how pretrained encoders are run, by name: folder, device, dtype, micro_batch, pixels, "
        "antialias; see `morl rewards`",
    )
    judges: dict[str, JudgeSettings] = option(
        {},
        "vision-language models behind an HTTP endpoint, by reward: url, model, api_key_env, "
        "question, pattern; see rewards/judge_settings.py",
    )
    instruments: dict[str, str] = option(
        {}, "a detector or recogniser of your own, as path/to/file.py:name"
    )
    on: Literal["mean", "sample"] = option(
        "mean", "scalarise the expected reward vector (what a front is) or each sample's"
    )
    pessimism: float = option(
        0.0,
        "how much of an ensemble's disagreement is subtracted from what is maximised and added "
        "to what is constrained",
        unit="standard deviations",
        low=0,
    )
    applies: dict[str, str] = option(
        {},
        "objectives that count only on some prompts: name -> a field that the prompt's record must "
        'have, or "field=value"; elsewhere its weight is shared by the others',
    )
    normalize: Literal["base", "group_std", "group_std_sum"] = option(
        "base",
        "what rewards are divided by: their std on the base model, frozen; in groups also the "
        "group's std, of each reward or of their weighted raw sum, either of which changes what a "
        "weight means (logged as effective_weight/...)",
        source="group_std: ParetoSlider, arXiv 2604.20816; group_std_sum: Flow-GRPO",
    )
    tail: float = option(
        1.0,
        "share of the prompts of a batch, the worst ones, whose mean utility is optimised (CVaR); "
        "of a micro-batch where rewards are differentiated; constraints still hold on average",
        above=0,
        high=1,
        source="Rockafellar and Uryasev, J. Risk 2(3), 2000",
    )
    aggregation: str = option(
        "none",
        "how the gradients of the objectives become one, at one backward pass an objective: a "
        "name in morl/algorithms/aggregation_facts.py; none adds them up in one pass",
    )
    dual_learning_rate: float = option(
        1.0,
        "growth of a multiplier per update and unit of violation",
        above=0,
        source="constrained_comp_align: 1",
    )
    multiplier_ema: float = option(
        0.0, "share of the previous violation estimate that is kept", low=0, below=1
    )
    multiplier_cap: float = option(
        100.0, "largest multiplier; reaching it means the constraint is not satisfiable", above=0
    )
    multiplier: Literal["dual_ascent", "nupi", "pid", "augmented_lagrangian", "fixed"] = option(
        "dual_ascent",
        "what drives the multipliers: the sum of the violations (dual_ascent; its rate is "
        "dual_learning_rate), that and their change (nupi) or their latest value (pid; "
        "augmented_lagrangian is pid without derivative), or nothing (fixed: a penalty of "
        "multiplier_start)",
    )
    multiplier_of_weights: Literal["shared", "per_vertex", "implicit"] = option(
        "shared",
        "one multiplier for all weight vectors, one an objective and linear between, or a smooth "
        "surface over the weight vectors (radial basis functions on a grid)",
    )
    multiplier_start: float = option(0.0, "multipliers before the first update", low=0)
    multiplier_warmup: int = option(
        0, "updates before the multipliers move; constraints still cost multiplier_start", low=0
    )
    multiplier_proportional: float = option(
        5.0,
        "multiplier per unit of change (nupi) or of violation (pid, augmented_lagrangian)",
        low=0,
        source="constrained_comp_align: 5 times the integral gain",
    )
    multiplier_derivative: float = option(
        0.0, "multiplier per unit of growth of the violation in one update (pid)", low=0
    )
    utility_weight: float = option(
        1.0,
        "factor on the scalarised utility; 0 leaves constraints and kl_coef alone, so that "
        "thresholds are targets that are met with the least departure from the base model",
        low=0,
    )

    def to_objective(self) -> dict[str, Any]:
        """Return the plain form that `rewards.Objective.from_dict` reads."""
        return {
            "maximize": dict(self.maximize),
            "subject_to": list(self.subject_to),
            "scalarization": self.scalarization,
            "params": dict(self.scalarization_params),
            "on": self.on,
            "pessimism": self.pessimism,
            "applies": dict(self.applies),
        }
