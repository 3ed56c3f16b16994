"""How long a training step waits for its images.

Generated photographs of 500 × 375 pixels (JPEG, quality 90) are read as the pipeline reads a split:

* memory: decoded once, before the first step; batches are gathered while the step runs;
* disk: decoded batch by batch, ahead of the step, as for a split that does not fit into memory;
* crop: the same with another random crop of each image in each epoch, as CLIP was trained.

A step is either a stated time in which the host is idle, as it is while a GPU computes, or, with
`--model`, a real training step of an image tower on the GPU (bf16) or CPU. The wait is the time
until the next batch is there; its share is wait ÷ (wait + step). The first batch, which nothing
could prepare, is not counted. The processor time of an image does not depend on what else the
machine does, and tells how many workers a step needs.

Examples:
    python benchmarks/loading.py
    python benchmarks/loading.py --workers 8 --model ViT-B-32 ViT-L-14
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets as hub
import numpy as np
import pandas as pd
from PIL import Image

from task_arithmetic.artifacts import write_csv, write_text
from task_arithmetic.loading import read_split
from task_arithmetic.splits import write_split

WIDTH, HEIGHT, SIZE = 500, 375, 224
WAYS = {
    "memory": {},
    "disk": {"memory": 1},
    "crop": {"augmentation": "crop"},
}
Step = Callable[[np.ndarray], None]


def photograph(random: np.random.Generator) -> bytes:
    """Return a JPEG with structure at all scales, so that it costs what a photograph costs."""
    pixels = np.zeros((HEIGHT, WIDTH, 3))
    for cells in (4, 16, 64, 256):
        coarse = Image.fromarray(random.integers(0, 256, (cells, cells, 3), np.uint8))
        layer = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
        pixels += layer * (2.0 / np.sqrt(cells))
    pixels = 255 * pixels / pixels.max()
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def make_split(path: Path, count: int) -> float:
    """Write a split of photographs and return their mean size in bytes."""
    random = np.random.default_rng(0)
    contents = [photograph(random) for _ in range(min(count, 64))]
    contents = [contents[index % len(contents)] for index in range(count)]
    features = hub.Features(image=hub.Image(), label=hub.ClassLabel(names=["one", "two"]))
    columns = {
        "image": [{"bytes": content, "path": None} for content in contents],
        "label": [index % 2 for index in range(count)],
    }
    write_split(path, hub.Dataset.from_dict(columns, features=features))
    return float(np.mean([len(content) for content in contents]))


def idle_step(seconds: float) -> Step:
    """Return a step that leaves the host idle for a time."""
    return lambda _: time.sleep(seconds)


def real_step(model: str) -> Step:
    """Return a non-linear training step of an image tower on the GPU if there is one."""
    import open_clip
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tower = open_clip.create_model(model).visual.to(device).eval()
    optimizer = torch.optim.AdamW(tower.parameters(), lr=1e-5, fused=True)

    def step(batch: np.ndarray) -> None:
        inputs = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2) / 255
        with torch.autocast(device.type, torch.bfloat16):
            features = tower(inputs)
        features.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def measure(path: Path, way: str, workers: int, step: Step, steps: int, batch: int) -> dict:
    """Read batches in random order beside steps and return what they waited for."""
    started, worked = time.perf_counter(), time.process_time()
    split = read_split(path, SIZE, workers, **WAYS[way])
    ready = time.perf_counter() - started
    random = np.random.default_rng(0)
    requests = ((0, random.integers(0, len(split.labels), batch)) for _ in range(steps + 1))
    waits, busy = [], []
    batches = split.images.batches(requests)
    for _ in range(steps + 1):
        started = time.perf_counter()
        images = next(batches)
        waits.append(time.perf_counter() - started)
        started = time.perf_counter()
        step(images)
        busy.append(time.perf_counter() - started)
    decoded = len(split.labels) if way == "memory" else (steps + 1) * batch
    # The first batch could not be prepared, and the first real step compiles and allocates.
    wait, work = sum(waits[1:]), sum(busy[1:])
    return {
        "processor_ms_per_image": 1000 * (time.process_time() - worked) / decoded,
        "ready_seconds": ready,
        "step_seconds": work / steps,
        "wait_seconds": wait / steps,
        "wait_share": wait / (wait + work),
        "images_per_second": steps * batch / (wait + work),
    }


def main() -> None:
    """Run the benchmark and write CSV and Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--step-seconds", type=float, nargs="*", default=[0.1, 1.0])
    parser.add_argument("--model", nargs="*", default=[], help="open_clip models to train instead")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()

    kinds = [(f"idle for {seconds:g} s", idle_step(seconds)) for seconds in options.step_seconds]
    kinds = [(name, real_step(name)) for name in options.model] or kinds
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.parquet"
        size = make_split(path, options.images)
        for name, step in kinds:
            for way in WAYS:
                for workers in options.workers:
                    found = measure(path, way, workers, step, options.steps, options.batch)
                    rows.append({"step": name, "way": way, "workers": workers, **found})
                    print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    write_csv(options.output / "loading.csv", table)
    lines = [
        "# Waiting for images",
        f"Made by `python benchmarks/loading.py` on: {_machine()}. Batches of {options.batch} of "
        f"{options.images} JPEG images of {WIDTH} × {HEIGHT} pixels and {size / 1000:.0f} kB, at "
        f"{SIZE} pixels; {options.steps} steps each. Ready: until batches can be asked for.",
        "\n".join([
            "| step | images | workers | ready (s) | step (s) | wait (s) | wait ÷ (wait + step) "
            "| images per second | processor ms per image |",
            "|---|---|---:|---:|---:|---:|---:|---:|---:|",
            *(
                f"| {row.step} | {row.way} | {row.workers} | {row.ready_seconds:.2f} "
                f"| {row.step_seconds:.3f} | {row.wait_seconds:.3f} | {row.wait_share:.0%} "
                f"| {row.images_per_second:.0f} | {row.processor_ms_per_image:.1f} |"
                for row in table.itertuples()
            ),
        ]),
    ]
    if not options.model:
        cost = table[table.way != "memory"].processor_ms_per_image.median()
        rate = 8 * 1000 / cost
        lines.append(
            f"At {cost:.1f} ms of a processor per image, 8 workers with a core each would decode "
            f"{rate:.0f} images per second (computed, not measured): a wait of at most 10 % with "
            f"images decoded anew needs steps of {0.9 * options.batch / rate:.2f} s or longer."
        )
    write_text(options.output / "loading.md", "\n\n".join(lines) + "\n")


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if platform.system() == "Linux" else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    parts = [
        f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores",
        f"load average {os.getloadavg()[1]:.1f} over five minutes",
    ]
    try:
        import torch

        if torch.cuda.is_available():
            parts.append(torch.cuda.get_device_name())
    except ImportError:
        pass
    return ", ".join(parts)


if __name__ == "__main__":
    main()
