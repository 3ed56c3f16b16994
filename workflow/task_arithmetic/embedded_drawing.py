"""Drawing for the embedded tasks: whole batches of small images as numpy arrays.

Images are float arrays `[size, 32, 32, 3]` in [0, 1]; masks and distances are `[size, 32, 32]`.
Shapes are signed distances, negative inside, in a frame where the image spans [−1, 1].
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import skimage
import sklearn
from PIL import Image, ImageDraw, ImageFont

SIZE = 32
PIXEL = 2 / SIZE
GLYPH = 48  # height and width of a cell of the glyph atlas


def frame(
    size: int,
    rng: np.random.Generator,
    rotation: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    shift: float = 0.0,
    shear: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates (u, v) of every pixel in randomly placed object frames.

    Args:
        size: How many images.
        rng: Source of randomness.
        rotation: Largest rotation either way, in degrees.
        scale: Least and greatest object size.
        shift: Largest shift either way along each axis.
        shear: Slant, u += shear·v.

    Returns:
        u to the right and v downwards, each `[size, 32, 32]`.
    """
    axis = (np.arange(SIZE) + 0.5) * PIXEL - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    angle = np.radians(_spread(rng, rotation, size))
    factor = rng.uniform(*scale, size)[:, None, None]
    x, y = x - _spread(rng, shift, size), y - _spread(rng, shift, size)
    u = (np.cos(angle) * x + np.sin(angle) * y) / factor
    v = (np.cos(angle) * y - np.sin(angle) * x) / factor
    return u + shear * v, v


def _spread(rng: np.random.Generator, limit: float, size: int) -> np.ndarray:
    return rng.uniform(-limit, limit, size)[:, None, None]


def inside(distance: np.ndarray) -> np.ndarray:
    """Return the coverage of each pixel by the inside of a shape, with soft edges."""
    return np.clip(0.5 - distance / PIXEL, 0, 1)


def outline(distance: np.ndarray, width: float) -> np.ndarray:
    """Return the coverage of each pixel by a line of a width along the edge of a shape."""
    return inside(np.abs(distance) - width / 2)


def paint(background: np.ndarray, foreground: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the background with the foreground painted over it where the mask is."""
    return background + (foreground - background) * mask[..., None]


def tones(size: int, rng: np.random.Generator, low: Sequence[float], high: Sequence[float]):
    """Return one random RGB tone per image between two tones, `[size, 1, 1, 3]`."""
    return rng.uniform(low, high, (size, 3))[:, None, None, :]


def noise(size: int, rng: np.random.Generator, cells: int) -> np.ndarray:
    """Return smooth noise in [0, 1] with a number of cells per side, `[size, 32, 32]`."""
    lattice = rng.random((size, cells + 1, cells + 1))
    position = np.linspace(0, cells, SIZE, endpoint=False) + 0.5 * cells / SIZE
    low = position.astype(int)
    share = position - low
    rows = lattice[:, low] * (1 - share)[:, None] + lattice[:, low + 1] * share[:, None]
    return rows[:, :, low] * (1 - share) + rows[:, :, low + 1] * share


def select(labels: np.ndarray, fields: Sequence[Callable[..., np.ndarray]], *coordinates):
    """Evaluate each image's own field: `fields[label](u, v, …)`."""
    values = np.empty_like(coordinates[0])
    for label, field in enumerate(fields):
        mine = labels == label
        values[mine] = field(*(coordinate[mine] for coordinate in coordinates))
    return values


# --- Typefaces -------------------------------------------------------------------------------


@functools.cache
def glyph(font: str, character: str) -> np.ndarray:
    """Return a character of one of matplotlib's typefaces, centred, `[48, 48]` in [0, 1]."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    face = ImageFont.truetype(str(path), size=40)
    image = Image.new("L", (GLYPH, GLYPH))
    ImageDraw.Draw(image).text((GLYPH / 2, GLYPH / 2), character, fill=255, font=face, anchor="mm")
    return np.asarray(image, dtype=np.float64) / 255


def sample(pictures: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Sample one square picture per image at frame coordinates, bilinearly; 0 outside.

    Args:
        pictures: `[size, side, side]`, spanning [−1, 1].
        u: Coordinates to the right, `[size, 32, 32]`.
        v: Coordinates downwards, `[size, 32, 32]`.

    Returns:
        Values, `[size, 32, 32]`.
    """
    side = pictures.shape[1]
    padded = np.pad(pictures, ((0, 0), (1, 2), (1, 2)))
    column = np.clip((u + 1) * side / 2 + 0.5, 0, side + 1)
    row = np.clip((v + 1) * side / 2 + 0.5, 0, side + 1)
    left, top = column.astype(int), row.astype(int)
    x, y = column - left, row - top
    image = np.arange(len(pictures))[:, None, None]
    upper = padded[image, top, left] * (1 - x) + padded[image, top, left + 1] * x
    lower = padded[image, top + 1, left] * (1 - x) + padded[image, top + 1, left + 1] * x
    return upper * (1 - y) + lower * y


# --- Photographs -----------------------------------------------------------------------------


@functools.cache
def photograph(name: str) -> np.ndarray:
    """Return a photograph that comes with scikit-image or scikit-learn, RGB in [0, 1]."""
    places = (
        Path(skimage.__file__).parent / "data",
        Path(sklearn.__file__).parent / "datasets" / "images",
    )
    path = next(folder / name for folder in places if (folder / name).exists())
    with Image.open(path) as image:
        small = image.convert("RGB")
        scale = 256 / min(small.size)
        small = small.resize((round(small.width * scale), round(small.height * scale)))
    return np.asarray(small, dtype=np.float64) / 255


def crops(
    names: Sequence[str], rng: np.random.Generator, columns: tuple[float, float]
) -> np.ndarray:
    """Cut a random square out of each named photograph and scale it to an image.

    Args:
        names: One photograph per image.
        rng: Source of randomness.
        columns: The part of the photograph's width, from 0 to 1, that may be used.

    Returns:
        Images, `[size, 32, 32, 3]`.
    """
    cut = np.empty((len(names), SIZE, SIZE, 3))
    for index, name in enumerate(names):
        picture = photograph(name)
        left, right = (round(share * picture.shape[1]) for share in columns)
        side = rng.integers(56, 88, endpoint=True)
        x, y = rng.integers(left, right - side), rng.integers(0, picture.shape[0] - side)
        # Every second pixel or so is averaged by the resize.
        square = Image.fromarray((picture[y : y + side, x : x + side] * 255).astype(np.uint8))
        cut[index] = np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BOX)) / 255
    return cut
