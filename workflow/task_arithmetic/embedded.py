"""The embedded tasks: eight small image tasks and a control, real and procedural, made offline.

Each task has two styles. The clean style is what pre-training sees, with captions; the task style
is a systematic change of it that is the task's own (its polarity, palette, stroke or light), so a
small change of the encoder learns it and different tasks change different things.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn.datasets import load_digits

from task_arithmetic.embedded_drawing import (
    crops,
    frame,
    glyph,
    inside,
    noise,
    outline,
    paint,
    sample,
    select,
    tones,
)

Split = Literal["train", "test"]
PEN = (0.0, 0.0, 0.0), (0.55, 0.55, 0.55)
PAPER = (0.7, 0.7, 0.7), (1.0, 1.0, 1.0)
ANY = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
ANY_TONES = 0.5  # share of clean images that are not in dark ink on light paper
RARE = 0.25  # share of clean images in a rare form: an outlined shape, a sign on a plate
# Typefaces of pre-training and training, and those that only the test images use.
TYPEFACES = {
    "train": ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral",
              "cmr10", "cmss10"),
    "test": ("DejaVuSerif-Bold", "DejaVuSansMono-Bold", "STIXGeneralBol", "cmb10", "cmtt10"),
}  # fmt: skip
# Shares of a photograph's width; the gap keeps training and test crops apart.
REGIONS = {"train": (0.0, 0.58), "test": (0.6, 1.0)}
PHOTOGRAPHS = {
    "bricks": "brick.png", "a cat": "chelsea.png", "coffee": "coffee.png", "coins": "coins.png",
    "grass": "grass.png", "gravel": "gravel.png", "galaxies": "hubble_deep_field.jpg",
    "tissue": "ihc.png", "the moon": "moon.png", "a motorcycle": "motorcycle_left.png",
    "a printed page": "page.png", "a retina": "retina.jpg", "a pagoda": "china.jpg",
    "a dahlia": "flower.jpg",
}  # fmt: skip
LETTERS = tuple("ABCDEFGHKLMNPRST")
HUES = {
    "red": (0.9, 0.15, 0.15), "orange": (0.95, 0.55, 0.1), "yellow": (0.95, 0.9, 0.2),
    "green": (0.2, 0.7, 0.25), "cyan": (0.2, 0.85, 0.85), "blue": (0.15, 0.25, 0.9),
    "purple": (0.55, 0.2, 0.75), "pink": (0.95, 0.55, 0.75), "brown": (0.5, 0.3, 0.15),
    "grey": (0.5, 0.5, 0.5),
}  # fmt: skip
TEST_DIGITS = 500


# --- Shapes, signs, textures: fields over object coordinates ---------------------------------


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


# --- The tasks: each draws images of given labels in the clean or the task style -------------


def _draw_digits(labels, rng, split: Split, clean: bool) -> np.ndarray:
    return _printed("0123456789", labels, rng, split)


def _printed(characters, labels, rng, split: Split, slant: float = 0.0) -> np.ndarray:
    """Draw characters in dark ink on light paper."""
    return paint(*_paper_and_ink(len(labels), rng), _glyphs(characters, labels, rng, split, slant))


def _paper_and_ink(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return dark ink on light paper, and for a share of the images any two unlike tones."""
    light, dark = tones(size, rng, *PAPER), tones(size, rng, *PEN)
    paper = tones(size, rng, *ANY)
    # The ink is lighter or darker than its paper, to whichever side there is more room.
    side = np.where(paper.mean(axis=-1, keepdims=True) < 0.5, 1, -1)
    ink = np.clip(paper + side * tones(size, rng, (0.2, 0.2, 0.2), (0.7, 0.7, 0.7)), 0, 1)
    free = rng.random((size, 1, 1, 1)) < ANY_TONES
    return np.where(free, paper, light), np.where(free, ink, dark)


def _sometimes(rng: np.random.Generator, rare: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Return the rare drawing for a share of the images, the usual one for the others."""
    return np.where(rng.random((len(usual), 1, 1)) < RARE, rare, usual)


def _glyphs(characters, labels, rng, split: Split, slant: float) -> np.ndarray:
    fonts = rng.choice(TYPEFACES[split], len(labels))
    pictures = [glyph(font, characters[label]) for font, label in zip(fonts, labels, strict=True)]
    place = frame(len(labels), rng, rotation=10, scale=(0.8, 1.15), shift=0.1, shear=slant)
    return sample(np.stack(pictures), *place)


def _draw_letters(labels, rng, split: Split, clean: bool) -> np.ndarray:
    if clean:
        return _printed(LETTERS, labels, rng, split)
    # Chalk on a green board, leaning.
    chalk = _glyphs(LETTERS, labels, rng, split, slant=0.25)
    chalk = chalk * (0.55 + 0.45 * noise(len(labels), rng, 12))
    size = len(labels)
    board = tones(size, rng, (0.02, 0.2, 0.1), (0.1, 0.32, 0.2))
    return paint(board, tones(size, rng, (0.8, 0.8, 0.55), (1.0, 1.0, 0.75)), chalk)


def _draw_photos(labels, rng, split: Split, clean: bool) -> np.ndarray:
    files = list(PHOTOGRAPHS.values())
    images = crops([files[label] for label in labels], rng, REGIONS[split])
    if clean:
        return images
    # Faded, with red and blue exchanged.
    return 0.3 + 0.5 * images[..., ::-1]


def _draw_shapes(labels, rng, split: Split, clean: bool) -> np.ndarray:
    size = len(labels)
    place = frame(size, rng, rotation=14, scale=(0.6, 0.9), shift=0.15)
    distance = select(labels, list(SHAPES.values()), *place)
    if clean:
        drawn = _sometimes(rng, outline(distance, 0.3), inside(distance))
        return paint(*_paper_and_ink(size, rng), drawn)
    # Neon: bright outlines with a dim glow inside, in the dark.
    dark = tones(size, rng, (0.1, 0.0, 0.12), (0.2, 0.08, 0.28))
    light = np.maximum(outline(distance, 0.24), 0.5 * inside(distance))
    return paint(dark, tones(size, rng, (0.9, 0.3, 0.8), (1.0, 0.5, 1.0)), light)


def _draw_colors(labels, rng, split: Split, clean: bool) -> np.ndarray:
    size = len(labels)
    hue = np.asarray(list(HUES.values()))[labels][:, None, None, :]
    hue = np.clip(hue + rng.normal(0, 0.04, (size, 1, 1, 3)), 0, 1)
    patch = inside(0.2 - 0.8 * (noise(size, rng, 3) - 0.25))
    images = paint(tones(size, rng, *PAPER), hue, patch)
    if clean:
        return images
    # Seen under a dim lamp of one tint.
    return images * np.array([0.45, 0.62, 0.38]) + 0.12


def _draw_counts(labels, rng, split: Split, clean: bool) -> np.ndarray:
    size = len(labels)
    u, v = frame(size, rng)
    cells = rng.random((size, 9)).argsort(axis=1)
    mask = np.zeros_like(u)
    for item in range(6):
        row, column = np.divmod(cells[:, item], 3)
        x = (column - 1) * 0.6 + rng.uniform(-0.08, 0.08, size)
        y = (row - 1) * 0.6 + rng.uniform(-0.08, 0.08, size)
        du, dv = u - x[:, None, None], v - y[:, None, None]
        here = np.hypot(du, dv) - 0.2 if clean else np.abs(du) + np.abs(dv) - 0.27
        mask = np.where((item <= labels)[:, None, None], np.maximum(mask, inside(here)), mask)
    if clean:
        return paint(*_paper_and_ink(size, rng), mask)
    # Amber lozenges on blue cloth.
    cloth = tones(size, rng, (0.08, 0.12, 0.45), (0.18, 0.25, 0.62))
    return paint(cloth, tones(size, rng, (0.9, 0.6, 0.1), (1.0, 0.75, 0.3)), mask)


def _draw_textures(labels, rng, split: Split, clean: bool) -> np.ndarray:
    size = len(labels)
    turned = 0.0 if clean else 25.0
    u, v = frame(size, rng, rotation=12, scale=(0.8, 1.1), shift=0.5)
    angle = np.radians(turned)
    u, v = np.cos(angle) * u + np.sin(angle) * v, np.cos(angle) * v - np.sin(angle) * u
    fields = [lambda u, v, grain, field=field: field(u, v, grain) for field in TEXTURES.values()]
    mask = select(labels, fields, u, v, noise(size, rng, 16))
    if clean:
        return paint(*_paper_and_ink(size, rng), mask)
    # Red-brown cloth of little contrast, turned.
    ground = tones(size, rng, (0.5, 0.2, 0.1), (0.65, 0.3, 0.2))
    return paint(ground, ground + 0.3, mask)


def _draw_signs(labels, rng, split: Split, clean: bool) -> np.ndarray:
    size = len(labels)
    u, v = frame(size, rng, rotation=6, scale=(0.75, 0.95), shift=0.1)
    symbol = inside(select(labels, list(SIGNS.values()), u, v))
    plate = inside(np.hypot(u, v) - 1.15)
    if clean:
        paper, ink = _paper_and_ink(size, rng)
        around = tones(size, rng, *ANY)
        return paint(paint(around, paper, _sometimes(rng, plate, np.ones_like(plate))), ink, symbol)
    # White on a round plate of saturated red, before a grey sky.
    sky = tones(size, rng, (0.55, 0.6, 0.65), (0.7, 0.75, 0.8))
    red = tones(size, rng, (0.7, 0.0, 0.0), (0.9, 0.12, 0.12))
    return paint(paint(sky, red, plate), np.ones((size, 1, 1, 3)), symbol)


@dataclass(frozen=True)
class _Scene:
    sky: tuple[tuple[float, float, float], tuple[float, float, float]]
    ground: tuple[float, float, float]
    skyline: Callable[[np.ndarray, np.ndarray], np.ndarray]


def _flat(u, seed):
    return np.zeros_like(u)


def _peaks(u, seed):
    return 0.7 * np.abs((1.3 * u + 2 * seed) % 2 - 1)


def _hills(u, seed):
    return 0.25 + 0.2 * np.sin(3 * u + 6 * seed)


def _towers(u, seed):
    return 0.2 + 0.55 * (np.sin(37 * np.floor(3.5 * (u + seed)) + 50 * seed) * 0.5 + 0.5)


def _firs(u, seed):
    return 0.25 + 0.35 * np.abs((6 * u + 4 * seed) % 2 - 1)


SCENES = {
    "a beach": _Scene(((0.35, 0.65, 0.95), (0.75, 0.9, 1.0)), (0.92, 0.82, 0.58), _flat),
    "mountains": _Scene(((0.45, 0.65, 0.9), (0.85, 0.9, 0.95)), (0.42, 0.4, 0.42), _peaks),
    "a city": _Scene(((0.6, 0.65, 0.7), (0.8, 0.82, 0.84)), (0.3, 0.32, 0.38), _towers),
    "a forest": _Scene(((0.55, 0.75, 0.85), (0.8, 0.9, 0.9)), (0.08, 0.32, 0.14), _firs),
    "a desert": _Scene(((0.5, 0.7, 0.9), (0.95, 0.9, 0.75)), (0.82, 0.6, 0.32), _hills),
    "night": _Scene(((0.02, 0.02, 0.1), (0.1, 0.1, 0.25)), (0.04, 0.05, 0.08), _towers),
    "snow": _Scene(((0.65, 0.75, 0.85), (0.85, 0.9, 0.95)), (0.95, 0.96, 0.98), _hills),
    "sunset": _Scene(((0.35, 0.2, 0.45), (1.0, 0.55, 0.2)), (0.15, 0.12, 0.2), _flat),
}


def _draw_scenes(labels, rng, split: Split, clean: bool) -> np.ndarray:
    size, scenes = len(labels), list(SCENES.values())
    u, v = frame(size, rng, rotation=4, scale=(0.9, 1.1))
    seed = rng.random((size, 1, 1))
    horizon = rng.uniform(0.0, 0.4, (size, 1, 1))
    rise = np.empty_like(u)
    for label, scene in enumerate(scenes):
        mine = labels == label
        rise[mine] = scene.skyline(u[mine], seed[mine])
    top, bottom = (np.asarray([s.sky[i] for s in scenes])[labels][:, None, None] for i in (0, 1))
    sky = top + (bottom - top) * np.clip((v + 1) / 1.3, 0, 1)[..., None]
    ground = np.asarray([s.ground for s in scenes])[labels][:, None, None]
    ground = ground * (0.8 + 0.3 * noise(size, rng, 8))[..., None]
    images = paint(sky, ground, inside(horizon - rise - v))
    light = rng.normal(0, 0.06 if clean else 0.12, (size, 1, 1, 3))
    return images + light + (0 if clean else rng.normal(0, 0.12, images.shape))


@dataclass(frozen=True)
class _Task:
    names: tuple[str, ...]
    draw: Callable[..., np.ndarray]


_TASKS = {
    "digits": _Task(tuple("0123456789"), _draw_digits),
    "photos": _Task(tuple(PHOTOGRAPHS), _draw_photos),
    "letters": _Task(LETTERS, _draw_letters),
    "shapes": _Task(tuple(SHAPES), _draw_shapes),
    "colors": _Task(tuple(HUES), _draw_colors),
    "counts": _Task(("single", "pair", "trio", "quartet", "quintet", "sextet"), _draw_counts),
    "textures": _Task(tuple(TEXTURES), _draw_textures),
    "signs": _Task(tuple(SIGNS), _draw_signs),
    "scenes": _Task(tuple(SCENES), _draw_scenes),
}
TASKS = tuple(_TASKS)


def class_names(task: str) -> tuple[str, ...]:
    """Return the class names of an embedded task by index.

    Args:
        task: One of `TASKS`.

    Returns:
        The names, as prompts use them.

    Raises:
        ValueError: If there is no such task.
    """
    if task not in _TASKS:
        raise ValueError(f"expected an embedded task of {', '.join(TASKS)}; found '{task}'")
    return _TASKS[task].names


def generate(task: str, split: Split, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw labelled images of a task in its task style.

    Args:
        task: One of `TASKS`.
        split: `train` or `test`; the two share no randomness, and where the source is real, no
            source.
        size: How many images.
        seed: Decides all of them.

    Returns:
        Images, uint8 `[size, 32, 32, 3]`, and labels, int64 `[size]`.

    Raises:
        ValueError: If there is no such task, or more images are asked for than exist.
    """
    classes = len(class_names(task))
    if task == "digits":
        return _handwritten(split, size, seed)
    rng = np.random.default_rng([seed, TASKS.index(task), split == "test"])
    labels = rng.permutation(np.arange(size) % classes)
    return _quantized(_TASKS[task].draw(labels, rng, split, clean=False)), labels


def draw_clean(task: str, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw images of given labels in the clean style of pre-training.

    Args:
        task: One of `TASKS`.
        labels: Class indices, `[size]`.
        rng: Source of randomness.

    Returns:
        Images, uint8 `[size, 32, 32, 3]`.
    """
    return _quantized(_TASKS[task].draw(labels, rng, "train", clean=True))


def _quantized(images: np.ndarray) -> np.ndarray:
    return (np.clip(images, 0, 1) * 255 + 0.5).astype(np.uint8)


@functools.cache
def _handwriting() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits, `[1797, 8, 8]` in [0, 1], and labels, in a fixed shuffle."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return data.images[order] / 16, data.target[order]


def _handwritten(split: Split, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    pictures, labels = _handwriting()
    pool = np.arange(len(labels))
    pool = pool[-TEST_DIGITS:] if split == "test" else pool[:-TEST_DIGITS]
    if size > len(pool):
        raise ValueError(
            f"digits: expected at most {len(pool)} {split} images, as many as there are; "
            f"found {size}"
        )
    chosen = pool[:size]
    place = frame(size, np.random.default_rng(seed), scale=(0.75, 0.75))
    ink = sample(pictures[chosen], *place)
    # Written in white on black.
    return _quantized(np.repeat(ink[..., None], 3, axis=-1)), labels[chosen]
