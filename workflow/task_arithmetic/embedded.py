"""The embedded tasks: eight small image tasks and a control, real and procedural, made offline.

Each task has two styles. The clean style is what pre-training sees, with captions; the task style
is a systematic change of it that is the task's own (its polarity, palette, stroke or light), so a
small change of the encoder learns it and different tasks change different things.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
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
from task_arithmetic.embedded_fields import SCENES, SHAPES, SIGNS, TEXTURES

Split = Literal["train", "test"]
Style = Literal["task", "clean"]
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


# --- The tasks: each draws images of given labels in the clean or the task style -------------


def _draw_digits(
    labels: np.ndarray, rng: np.random.Generator, split: Split, clean: bool
) -> np.ndarray:
    return _printed("0123456789", labels, rng, split)


def _printed(
    characters: Sequence[str], labels: np.ndarray, rng: np.random.Generator, split: Split
) -> np.ndarray:
    """Draw characters in dark ink on light paper."""
    return paint(*_paper_and_ink(len(labels), rng), _glyphs(characters, labels, rng, split))


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


def _glyphs(
    characters: Sequence[str],
    labels: np.ndarray,
    rng: np.random.Generator,
    split: Split,
    slant: float = 0.0,
) -> np.ndarray:
    """Return the coverage of each pixel by a character in a random typeface and place."""
    fonts = rng.choice(TYPEFACES[split], len(labels))
    pictures = [glyph(font, characters[label]) for font, label in zip(fonts, labels, strict=True)]
    place = frame(len(labels), rng, rotation=10, scale=(0.8, 1.15), shift=0.1, shear=slant)
    return sample(np.stack(pictures), *place)


def _draw_letters(
    labels: np.ndarray, rng: np.random.Generator, split: Split, clean: bool
) -> np.ndarray:
    if clean:
        return _printed(LETTERS, labels, rng, split)
    # Chalk on a green board, leaning.
    chalk = _glyphs(LETTERS, labels, rng, split, slant=0.4)
    chalk = chalk * (0.55 + 0.45 * noise(len(labels), rng, 12))
    size = len(labels)
    board = tones(size, rng, (0.02, 0.2, 0.1), (0.1, 0.32, 0.2))
    return paint(board, tones(size, rng, (0.8, 0.8, 0.55), (1.0, 1.0, 0.75)), chalk)


def _draw_photos(
    labels: np.ndarray, rng: np.random.Generator, split: Split, clean: bool
) -> np.ndarray:
    files = list(PHOTOGRAPHS.values())
    images = crops([files[label] for label in labels], rng, REGIONS[split])
    if clean:
        return images
    # Faded, with red and blue exchanged.
    return 0.3 + 0.5 * images[..., ::-1]


def _draw_shapes(
    labels: np.ndarray, rng: np.random.Generator, split: Split, clean: bool
) -> np.ndarray:
    size = len(labels)
    place = frame(size, rng, rotation=14, scale=(0.6, 0.9), shift=0.15)
    distance = select(labels, list(SHAPES.values()), *place)
    if clean:
        drawn = _sometimes(rng, outline(distance, 0.3), inside(distance))
        return paint(*_paper_and_ink(size, rng), drawn)
    # Neon: thin bright outlines in the dark.
    dark = tones(size, rng, (0.1, 0.0, 0.12), (0.2, 0.08, 0.28))
    light = tones(size, rng, (0.9, 0.3, 0.8), (1.0, 0.5, 1.0))
    return paint(dark, light, outline(distance, 0.16))


def _draw_colors(
    labels: np.ndarray, rng: np.random.Generator, split: Split, clean: bool
) -> np.ndarray:
    size = len(labels)
    hue = np.asarray(list(HUES.values()))[labels][:, None, None, :]
    hue = np.clip(hue + rng.normal(0, 0.04, (size, 1, 1, 3)), 0, 1)
    patch = inside(0.2 - 0.8 * (noise(size, rng, 3) - 0.25))
    images = paint(tones(size, rng, *PAPER), hue, patch)
    if clean:
        return images
    # Seen under a dim lamp of one tint.
    return images * np.array([0.45, 0.62, 0.38]) + 0.12


def _draw_counts(
    labels: np.ndarray, rng: np.random.Generator, split: Split, clean: bool
) -> np.ndarray:
    size = len(labels)
    u, v = frame(size, rng)
    cells = rng.random((size, 9)).argsort(axis=1)
    mask = np.zeros_like(u)
    for item in range(6):
        row, column = np.divmod(cells[:, item], 3)
        x = (column - 1) * 0.6 + rng.uniform(-0.08, 0.08, size)
        y = (row - 1) * 0.6 + rng.uniform(-0.08, 0.08, size)
        du, dv = u - x[:, None, None], v - y[:, None, None]
        here = np.hypot(du, dv) - 0.2 if clean else np.abs(du) + np.abs(dv) - 0.24
        mask = np.where((item <= labels)[:, None, None], np.maximum(mask, inside(here)), mask)
    if clean:
        return paint(*_paper_and_ink(size, rng), mask)
    # Amber lozenges on blue cloth.
    cloth = tones(size, rng, (0.08, 0.12, 0.45), (0.18, 0.25, 0.62))
    return paint(cloth, tones(size, rng, (0.9, 0.6, 0.1), (1.0, 0.75, 0.3)), mask)


def _draw_textures(
    labels: np.ndarray, rng: np.random.Generator, split: Split, clean: bool
) -> np.ndarray:
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


def _draw_signs(
    labels: np.ndarray, rng: np.random.Generator, split: Split, clean: bool
) -> np.ndarray:
    size = len(labels)
    u, v = frame(size, rng, rotation=6, scale=(0.75, 0.95), shift=0.1)
    symbol = inside(select(labels, list(SIGNS.values()), u, v))
    plate = inside(np.hypot(u, v) - 1.15)
    if clean:
        paper, ink = _paper_and_ink(size, rng)
        around = tones(size, rng, *ANY)
        return paint(paint(around, paper, _sometimes(rng, plate, np.ones_like(plate))), ink, symbol)
    # White in the middle of a round plate of saturated red, before a grey sky.
    sky = tones(size, rng, (0.55, 0.6, 0.65), (0.7, 0.75, 0.8))
    red = tones(size, rng, (0.7, 0.0, 0.0), (0.9, 0.12, 0.12))
    small = inside(select(labels, list(SIGNS.values()), 1.7 * u, 1.7 * v))
    return paint(paint(sky, red, plate), np.ones((size, 1, 1, 3)), small)


def _draw_scenes(
    labels: np.ndarray, rng: np.random.Generator, split: Split, clean: bool
) -> np.ndarray:
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


def generate(
    task: str, split: Split, size: int, seed: int, style: Style = "task"
) -> tuple[np.ndarray, np.ndarray]:
    """Draw labelled images of a task.

    Args:
        task: One of `TASKS`.
        split: `train` or `test`; the two share no randomness, and where the source is real, no
            source.
        size: How many images.
        seed: Decides all of them; the two styles share no randomness.
        style: `task`, the task's own, or `clean`, that of pre-training.

    Returns:
        Images, uint8 `[size, 32, 32, 3]`, and labels, int64 `[size]`.

    Raises:
        ValueError: If there is no such task, or more images are asked for than exist.
    """
    classes = len(class_names(task))
    clean = style == "clean"
    if task == "digits" and not clean:
        return _handwritten(split, size, seed)
    rng = np.random.default_rng([seed, TASKS.index(task), split == "test", *([1] if clean else [])])
    labels = rng.permutation(np.arange(size) % classes)
    return _drawn(task, labels, rng, split, clean), labels


def draw_clean(task: str, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw images of given labels in the clean style of pre-training.

    Args:
        task: One of `TASKS`.
        labels: Class indices, `[size]`.
        rng: Source of randomness.

    Returns:
        Images, uint8 `[size, 32, 32, 3]`.
    """
    return _drawn(task, labels, rng, "train", clean=True)


def _drawn(
    task: str, labels: np.ndarray, rng: np.random.Generator, split: Split, clean: bool
) -> np.ndarray:
    return _quantized(_TASKS[task].draw(labels, rng, split, clean=clean))


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
