"""What the embedded tasks show: fields over object coordinates (u, v), v downwards.

Shapes and signs are signed distances, negative inside; textures are brightness in [0, 1]; skylines
are heights over the horizon.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


def _polygon(sides: int, radius: float) -> Callable[..., np.ndarray]:
    def field(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        sector = 2 * np.pi / sides
        angle = (np.arctan2(u, -v) + sector / 2) % sector - sector / 2
        return np.hypot(u, v) * np.cos(angle) - radius * np.cos(sector / 2)

    return field


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    sector = 2 * np.pi / 5
    angle = np.abs((np.arctan2(u, -v) + sector / 2) % sector - sector / 2) / (sector / 2)
    return np.hypot(u, v) - (0.95 - 0.6 * angle)


def _box(u: np.ndarray, v: np.ndarray, width: float, height: float) -> np.ndarray:
    return np.maximum(np.abs(u) - width, np.abs(v) - height)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.minimum(_box(u, v, 0.8, 0.25), _box(u, v, 0.25, 0.8))


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    x, y = np.abs(u), -v
    lobes = np.hypot(x - 0.38, y - 0.25) - 0.45
    tip = np.maximum((x * 0.8 + (-y - 0.8) * 0.62), y - 0.25)
    return np.minimum(lobes, tip)


def _crescent(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(u, v) - 0.8, 0.65 - np.hypot(u - 0.4, v))


def _hourglass(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u) - np.abs(v) * 0.9 - 0.05, np.abs(v) - 0.8)


SHAPES = {
    "circle": lambda u, v: np.hypot(u, v) - 0.75,
    "square": lambda u, v: _box(u, v, 0.65, 0.65),
    "triangle": _polygon(3, 0.95),
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "crescent": _crescent,
    "hourglass": _hourglass,
}


def _arrow(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    head = np.maximum(np.abs(u) * 0.75 - (v + 0.65) * 0.66, v - 0.05)
    return np.minimum(head, _box(u, v - 0.35, 0.14, 0.4))


SIGNS = {
    "ahead": _arrow,
    "back": lambda u, v: _arrow(u, -v),
    "left": lambda u, v: _arrow(v, u),
    "right": lambda u, v: _arrow(v, -u),
    "no entry": lambda u, v: _box(u, v, 0.62, 0.17),
    "parking": lambda u, v: np.minimum(
        _box(u + 0.3, v, 0.12, 0.62), np.abs(np.hypot(u + 0.05, v + 0.27) - 0.27) - 0.1
    ),
    "junction": lambda u, v: np.minimum(
        _box(u + v, u - v, 0.16, 0.85), _box(u + v, u - v, 0.85, 0.16)
    ),
    "danger": lambda u, v: np.minimum(_box(u, v + 0.2, 0.13, 0.42), np.hypot(u, v - 0.55) - 0.15),
}


def _wave(phase: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.clip(2.5 * np.sin(phase), -1, 1)


TEXTURES = {
    "striped": lambda u, v, grain: _wave(9 * v),
    "checkered": lambda u, v, grain: np.abs(_wave(7 * u) - _wave(7 * v)),
    "dotted": lambda u, v, grain: _wave(np.sin(9 * u) + np.sin(9 * v) - 1.0),
    "wavy": lambda u, v, grain: _wave(9 * v + 1.6 * np.sin(6 * u)),
    "grainy": lambda u, v, grain: grain,
    "woven": lambda u, v, grain: np.maximum(_wave(10 * u - 0.9) ** 4, _wave(10 * v - 0.9) ** 4),
    "rippled": lambda u, v, grain: _wave(11 * np.hypot(u, v)),
    "pleated": lambda u, v, grain: _wave(9 * v + 2.2 * np.abs((2 * u) % 2 - 1)),
}


@dataclass(frozen=True)
class Scene:
    """A landscape: sky at the top and at the horizon, ground, and the skyline's height at u."""

    sky: tuple[tuple[float, float, float], tuple[float, float, float]]
    ground: tuple[float, float, float]
    skyline: Callable[[np.ndarray, np.ndarray], np.ndarray]


def _flat(u: np.ndarray, seed: np.ndarray) -> np.ndarray:
    return np.zeros_like(u)


def _peaks(u: np.ndarray, seed: np.ndarray) -> np.ndarray:
    return 0.7 * np.abs((1.3 * u + 2 * seed) % 2 - 1)


def _hills(u: np.ndarray, seed: np.ndarray) -> np.ndarray:
    return 0.25 + 0.2 * np.sin(3 * u + 6 * seed)


def _towers(u: np.ndarray, seed: np.ndarray) -> np.ndarray:
    return 0.2 + 0.55 * (np.sin(37 * np.floor(3.5 * (u + seed)) + 50 * seed) * 0.5 + 0.5)


def _firs(u: np.ndarray, seed: np.ndarray) -> np.ndarray:
    return 0.25 + 0.35 * np.abs((6 * u + 4 * seed) % 2 - 1)


SCENES = {
    "a beach": Scene(((0.35, 0.65, 0.95), (0.75, 0.9, 1.0)), (0.92, 0.82, 0.58), _flat),
    "mountains": Scene(((0.45, 0.65, 0.9), (0.85, 0.9, 0.95)), (0.42, 0.4, 0.42), _peaks),
    "a city": Scene(((0.6, 0.65, 0.7), (0.8, 0.82, 0.84)), (0.3, 0.32, 0.38), _towers),
    "a forest": Scene(((0.55, 0.75, 0.85), (0.8, 0.9, 0.9)), (0.08, 0.32, 0.14), _firs),
    "a desert": Scene(((0.5, 0.7, 0.9), (0.95, 0.9, 0.75)), (0.82, 0.6, 0.32), _hills),
    "night": Scene(((0.02, 0.02, 0.1), (0.1, 0.1, 0.25)), (0.04, 0.05, 0.08), _towers),
    "snow": Scene(((0.65, 0.75, 0.85), (0.85, 0.9, 0.95)), (0.95, 0.96, 0.98), _hills),
    "sunset": Scene(((0.35, 0.2, 0.45), (1.0, 0.55, 0.2)), (0.15, 0.12, 0.2), _flat),
}
