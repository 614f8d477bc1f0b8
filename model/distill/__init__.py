"""Knowledge transfer from a teacher: the objectives, one file each, and the strategies that schedule them."""

from .attention import attention_transfer
from .copying import copy_ends, ends_fit
from .feature_maps import feature_map_transfer, mean_transfer, normalized_feature_map_transfer, variance_transfer
from .objectives import Distillation, PreTraining, Weights, project
from .pretraining import distillation, masked_language_model, next_sentence_prediction
from .strategies import STRATEGIES, Stage, auxiliary, joint, progressive

__all__ = [
    "STRATEGIES",
    "Distillation",
    "PreTraining",
    "Stage",
    "Weights",
    "attention_transfer",
    "auxiliary",
    "copy_ends",
    "distillation",
    "ends_fit",
    "feature_map_transfer",
    "joint",
    "masked_language_model",
    "mean_transfer",
    "next_sentence_prediction",
    "normalized_feature_map_transfer",
    "progressive",
    "project",
    "variance_transfer",
]
