"""Boxes as the cube [-1, 1]^d: the units in which none of their sides is longer than another."""

from __future__ import annotations

import torch
from torch import Tensor

from marginkit.bounds.linear.ball import Ball


def sides(ball: Ball) -> tuple[Tensor, Tensor]:
    """Middle and half the length of each side [d] of the box around one sample's ball."""
    low, high = (end.flatten() for end in ball.interval())
    return (low + high) / 2, (high - low) / 2


def on_cube(ball: Ball, normal: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Functions <normal, x> + level of the box [m, *d], [m] as functions of the cube [m, d], [m]."""
    middle, half = sides(ball)
    normal = normal.flatten(1)
    return normal * half, level + normal @ middle


def off_cube(ball: Ball, normal: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Functions of the cube [m, d], [m] as functions of the box."""
    middle, half = sides(ball)
    normal = torch.where(half > 0, normal / torch.where(half > 0, half, 1), 0)
    return normal, level - normal @ middle


def in_cube(ball: Ball, points: Tensor) -> Tensor:
    """Points of the box [m, *d] as points of the cube [m, d], 0 where a side has no length."""
    middle, half = sides(ball)
    return torch.where(half > 0, (points.flatten(1) - middle) / torch.where(half > 0, half, 1), 0)
