"""Typed configuration: a YAML file becomes a checked tree before anything else is loaded."""

from morl.config.check import check, require
from morl.config.load import load_config, recipe_names
from morl.config.objective_settings import ObjectiveConfig
from morl.config.tree import (
    BaseConfig,
    Config,
    EvaluationConfig,
    PromptsConfig,
    TrainingConfig,
    WeightsConfig,
)
from morl.config.write import annotated, to_yaml
from morl.lora.settings import AdapterConfig

__all__ = [
    "AdapterConfig",
    "BaseConfig",
    "Config",
    "EvaluationConfig",
    "ObjectiveConfig",
    "PromptsConfig",
    "TrainingConfig",
    "WeightsConfig",
    "annotated",
    "check",
    "load_config",
    "recipe_names",
    "require",
    "to_yaml",
]
