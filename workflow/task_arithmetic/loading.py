"""Images of a split for training and evaluation: decoded by worker threads to uint8 batches.

Pillow decodes and resizes outside Python's global lock, so threads are enough: nothing is copied
between processes. A split that fits into memory is decoded once and stays; a larger one, or one
that is cropped anew in every epoch, is kept encoded on disk and decoded batch by batch, ahead of
its use. Normalization is the encoder's, on the device. No torch here.
"""

from __future__ import annotations

import io
import math
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, repeat
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import ipc, parquet

from task_arithmetic.artifacts import PipelineError
from task_arithmetic.splits import check_labels, class_names_of, open_split

# Enough to ride out a slow image; more would only cost memory.
BATCHES_AHEAD = 3
CROP_AREA = (0.9, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
CROP_TRIALS = 10
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# The epoch, which only a random crop depends on, and the examples of one batch.
Request = tuple[int, np.ndarray]
Decode = Callable[[bytes, int, int], np.ndarray]


class Images(Protocol):
    """The images of a split."""

    def __len__(self) -> int:
        """Return how many there are."""

    def batches(self, requests: Iterable[Request]) -> Iterator[np.ndarray]:
        """Yield requested batches in order, uint8 `[batch, height, width, 3]`, made ahead."""


@dataclass(frozen=True)
class Split:
    """One split of a task.

    Attributes:
        images: RGB images, uint8, `[size, height, width, 3]` by batches.
        labels: Class indices, int64, `[size]`.
        class_names: Class names by index.
    """

    images: Images
    labels: np.ndarray
    class_names: tuple[str, ...]


class DecodedImages:
    """Images in memory."""

    def __init__(self, array: np.ndarray) -> None:
        """Take decoded images, uint8 `[size, height, width, 3]`."""
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def batches(self, requests: Iterable[Request]) -> Iterator[np.ndarray]:
        """Yield requested batches, gathered ahead of their use."""
        with ThreadPoolExecutor(1) as pool:
            for part in _ahead(pool, lambda request: [(self.array.take, request[1], 0)], requests):
                yield part[0]


class EncodedImages:
    """Images on disk, decoded when asked for."""

    def __init__(self, column: pa.ChunkedArray, decode: Decode, workers: int) -> None:
        """Take encoded images.

        Args:
            column: Their bytes, mapped into memory.
            decode: Makes an image of its bytes, its epoch and its index.
            workers: How many threads decode.
        """
        self._column, self._decode, self._workers = column, decode, workers

    def __len__(self) -> int:
        return len(self._column)

    def batches(self, requests: Iterable[Request]) -> Iterator[np.ndarray]:
        """Yield requested batches, decoded ahead of their use."""

        def tasks(request: Request) -> list[tuple]:
            epoch, indices = request
            return [(self._one, epoch, int(index)) for index in indices]

        with ThreadPoolExecutor(self._workers) as pool:
            yield from map(np.stack, _ahead(pool, tasks, requests))

    def _one(self, epoch: int, index: int) -> np.ndarray:
        return self._decode(self._column[index].as_py(), epoch, index)


def read_split(
    path: Path | str,
    size: int,
    workers: int = 1,
    memory: float = math.inf,
    augmentation: Literal["none", "crop"] = "none",
    seed: int = 0,
    interpolation: str = "bicubic",
    resize_mode: str = "shortest",
) -> Split:
    """Read a parquet split for an encoder.

    Args:
        path: The parquet file.
        size: Height and width of the images.
        workers: How many threads decode.
        memory: How many bytes the decoded images may take; more are decoded when asked for.
        augmentation: `none`: see `whole_image`; `crop`: see `random_crop`, another one in each
            epoch.
        seed: Decides the random crops.
        interpolation: See `whole_image`.
        resize_mode: See `whole_image`.

    Returns:
        The split.

    Raises:
        PipelineError: If the file is damaged, has no example, or an image cannot be decoded.
    """
    file = open_split(path)
    names = class_names_of(file)
    labels = file.read(["label"])["label"].to_numpy().astype(np.int64)
    check_labels(str(path), labels, names)

    def decode(content: bytes, epoch: int, index: int) -> np.ndarray:
        try:
            if augmentation == "crop":
                return random_crop(content, size, (seed, epoch, index), interpolation)
            return whole_image(content, size, interpolation, resize_mode)
        except (OSError, ValueError) as error:
            raise PipelineError(f"{path}: image {index} could not be decoded: {error}") from error

    if augmentation == "none" and len(labels) * size * size * 3 <= memory:
        return Split(DecodedImages(_decode_all(file, decode, size, workers)), labels, names)
    return Split(EncodedImages(_unpacked(file), decode, workers), labels, names)


def as_images(images: Any) -> Images:
    """Return images by batches: those of a split, or an array or CPU tensor of decoded ones."""
    return images if hasattr(images, "batches") else DecodedImages(np.asarray(images))


def in_order(size: int, batch_size: int) -> Iterator[Request]:
    """Yield the requests of one pass over all images in order."""
    for start in range(0, size, batch_size):
        yield 0, np.arange(start, min(start + batch_size, size))


def whole_image(
    content: bytes, size: int, interpolation: str = "bicubic", resize_mode: str = "shortest"
) -> np.ndarray:
    """Decode and resize an image, rounding to pixels as torchvision rounds.

    Args:
        content: The encoded image.
        size: Height and width wanted.
        interpolation: `bicubic`, as CLIP does, or `bilinear`.
        resize_mode: `shortest`: the shorter side is resized to `size` and the centre is cut out, as
            CLIP does; `squash`: both sides are resized.

    Returns:
        RGB, uint8, `[size, size, 3]`.
    """
    rgb = _rgb(content)
    if rgb.size != (size, size):
        short = min(rgb.size)
        squashed = resize_mode == "squash"
        wide, high = (
            size if squashed or side == short else int(size * side / short) for side in rgb.size
        )
        rgb = rgb.resize((wide, high), FILTERS[interpolation])
        left, top = round((wide - size) / 2), round((high - size) / 2)
        rgb = rgb.crop((left, top, left + size, top + size))
    return np.asarray(rgb)


def random_crop(
    content: bytes, size: int, key: tuple[int, ...], interpolation: str = "bicubic"
) -> np.ndarray:
    """Decode an image as CLIP's training does: 90 to 100 % of its area, at random, resized.

    Args:
        content: The encoded image.
        size: Height and width wanted.
        key: Decides the crop: the seed, the epoch and the image's index, so that a resumed
            training sees the same.
        interpolation: `bicubic`, as CLIP does, or `bilinear`.

    Returns:
        RGB, uint8, `[size, size, 3]`.
    """
    rgb, random = _rgb(content), np.random.default_rng(key)
    width, height = rgb.size
    # Without a rectangle that fits: the middle, as much of it as the ratios allow.
    wide = min(width, round(height * CROP_RATIO[1]))
    high = min(height, round(width / CROP_RATIO[0]))
    left, top = (width - wide) // 2, (height - high) // 2
    for _ in range(CROP_TRIALS):
        area = width * height * random.uniform(*CROP_AREA)
        ratio = math.exp(random.uniform(*map(math.log, CROP_RATIO)))
        tried = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if tried[0] <= width and tried[1] <= height:
            wide, high = tried
            left = int(random.integers(0, width - wide + 1))
            top = int(random.integers(0, height - high + 1))
            break
    box = (left, top, left + wide, top + high)
    return np.asarray(rgb.crop(box).resize((size, size), FILTERS[interpolation]))


def _rgb(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content)) as image:
        return image.convert("RGB")


def _decode_all(file: parquet.ParquetFile, decode: Decode, size: int, workers: int) -> np.ndarray:
    """Decode all images; besides them, only a batch of encoded ones is in memory."""
    decoded = np.empty((file.metadata.num_rows, size, size, 3), np.uint8)
    done = 0
    with ThreadPoolExecutor(workers) as pool:
        for encoded in _encoded(file):
            contents = encoded.to_pylist()
            for image in pool.map(decode, contents, repeat(0), count(done)):
                decoded[done] = image
                done += 1
    return decoded


def _unpacked(file: parquet.ParquetFile) -> pa.ChunkedArray:
    """Return the encoded images, mapped from a file where each is read without the others."""
    schema = pa.schema([("bytes", pa.binary())])
    # The file lives as long as its mapping and has no name by then: a killed step leaves nothing.
    with tempfile.TemporaryDirectory(prefix="images-", ignore_cleanup_errors=True) as folder:
        path = f"{folder}/images.arrow"
        try:
            with ipc.new_file(path, schema) as writer:
                for encoded in _encoded(file):
                    writer.write(pa.record_batch([encoded], schema=schema))
        except OSError as error:
            raise PipelineError(
                f"{path}: the images could not be unpacked ({error}); name a folder with room for "
                "them in TMPDIR, or give the step more memory"
            ) from error
        return ipc.open_file(pa.memory_map(path)).read_all()["bytes"]


def _encoded(file: parquet.ParquetFile) -> Iterator[pa.Array]:
    for batch in file.iter_batches(256, columns=["image"]):
        yield batch.column(0).field("bytes").cast(pa.binary())


def _ahead(
    pool: ThreadPoolExecutor,
    tasks: Callable[[Request], list[tuple]],
    requests: Iterable[Request],
) -> Iterator[list]:
    """Yield the results of each request's tasks, in order, while the next ones are worked on."""
    waiting: deque[list[Future]] = deque()
    try:
        for request in requests:
            waiting.append([pool.submit(*task) for task in tasks(request)])
            if len(waiting) > BATCHES_AHEAD:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:
        # A reader that stops early must not wait for what it will not take.
        for future in (future for futures in waiting for future in futures):
            future.cancel()
