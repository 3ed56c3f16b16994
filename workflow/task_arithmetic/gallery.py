"""Pictures of the datasets: some test images of each, with the names of their classes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from task_arithmetic.figures import styled
from task_arithmetic.splits import class_names_of, open_split

COLUMNS = 10
THUMBNAIL = 96  # pixels, of photographs that are larger
SEARCHED = 2000  # images, of a split whose order begins with few classes


def examples(path: Path | str, count: int) -> list[tuple[str, Image.Image]]:
    """Return some images of a split, of as many classes as there are.

    Args:
        path: A parquet split.
        count: How many images at most.

    Returns:
        Class names and images, square and at most `THUMBNAIL` wide: the first image of each class
        in the order of the classes; if there are fewer classes, fewer images.

    Raises:
        PipelineError: If the file is damaged.
    """
    file = open_split(path)
    names = class_names_of(file)
    wanted = set(np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int))
    found: dict[int, Image.Image] = {}
    seen = 0
    for batch in file.iter_batches(64, columns=["image", "label"]):
        for row in batch.to_pylist():
            if row["label"] in wanted and row["label"] not in found:
                with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
                    side = min(*image.size, THUMBNAIL)
                    found[row["label"]] = ImageOps.fit(image.convert("RGB"), (side, side))
        seen += batch.num_rows
        if len(found) == len(wanted) or seen >= SEARCHED:
            break
    return [(names[label], found[label]) for label in sorted(found)]


@styled
def gallery(datasets: Mapping[str, Sequence[tuple[str, Image.Image]]]) -> Figure:
    """Draw one line of images per dataset.

    Args:
        datasets: Class names and images by dataset.

    Returns:
        The figure.
    """
    columns = max(len(images) for images in datasets.values())
    figure = Figure(figsize=(0.95 * columns + 0.9, 1.12 * len(datasets)), layout="constrained")
    panels = figure.subplots(len(datasets), columns, squeeze=False)
    for row, (dataset, images) in zip(panels, datasets.items(), strict=True):
        for panel in row:
            panel.set_axis_off()
        for panel, (name, image) in zip(row, images, strict=False):
            panel.imshow(image, interpolation="nearest")
            panel.set_title(name if len(name) < 16 else f"{name[:14]}…", fontsize=7, pad=2)
        row[0].text(
            -0.15, 0.5, dataset, ha="right", va="center", fontsize=9, transform=row[0].transAxes
        )
    return figure
