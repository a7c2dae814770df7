"""The optimizer and the course of its learning rate, from the settings of a recipe."""

import math
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from detectors.engine.muon import Muon
from detectors.settings import TrainConfig


def optimizer_of(model: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, AdamW or Muon; biases and norm scales have a rate and a decay of their own.

    Muon's matrices are the weights of linear layers and ungrouped convolutions. A grouped convolution has a
    small matrix for each group, of which there is little to make orthogonal: it takes AdamW's steps.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    # Convolutions and linear layers have weights of two or more dimensions; norms and biases have one.
    norms_and_biases: dict[str, Any] = {
        "params": [p for p in parameters if p.ndim <= 1],
        "lr": settings.lr * settings.norm_and_bias_lr,
    }
    if not settings.decay_norm_and_bias:
        norms_and_biases["weight_decay"] = 0.0
    groups = [{"params": [p for p in parameters if p.ndim > 1]}, norms_and_biases]
    decay = settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, weight_decay=decay)
    if settings.optimizer == "muon":
        return Muon(_with_matrices_apart(model, groups), lr=settings.lr, weight_decay=decay)
    return torch.optim.AdamW(groups, lr=settings.lr, weight_decay=decay)


def _with_matrices_apart(model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)
    matrices = {
        id(layer.weight)
        for layer in model.modules()
        if isinstance(layer, layers) and getattr(layer, "groups", 1) == 1
    }
    parts = [
        {**group, "params": [p for p in group["params"] if (id(p) in matrices) == apart], "matrices": apart}
        for group in groups
        for apart in (True, False)
    ]
    return [part for part in parts if part["params"]]


def schedule_of(optimizer: torch.optim.Optimizer, settings: TrainConfig, steps: int) -> LambdaLR:
    """The learning rate as a function of the step, for a training of that many steps."""
    return LambdaLR(optimizer, lambda step: lr_factor(settings, step / max(steps, 1)))


def lr_factor(settings: TrainConfig, progress: float) -> float:
    """The share of the peak learning rate that applies when `progress` (0..1) of the training is done."""
    if progress < settings.warmup:
        return 0.01 + 0.99 * progress / settings.warmup
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "multistep":
        return float(0.1 ** sum(progress >= milestone for milestone in settings.milestones))
    cooling = (progress - settings.warmup) / max(1 - settings.warmup, 1e-9)
    if settings.schedule == "linear":
        return 1 - min(cooling, 1.0)
    return 0.5 * (1 + math.cos(math.pi * min(cooling, 1.0)))
