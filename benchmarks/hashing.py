"""The cost of hashing: what share of each step's time goes into the SHA-256 of its files.

Every record says which files its step read and wrote, how large they are and how long the step
took. This reads the records of a finished run, hashes the same files again on this machine with a
warm page cache, as a step finds its own, and prints hashing time ÷ step time by kind of step.

Examples:
    python benchmarks/hashing.py results/embedded
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd

from task_arithmetic.artifacts import PipelineError, read_json, sha256
from task_arithmetic.lineage import RECORD_SUFFIX


def hashing_seconds(files: set[str], times: dict[str, float]) -> float:
    """Return the time to hash files once each, measured once per file."""
    for name in files - times.keys():
        Path(name).read_bytes()
        started = time.perf_counter()
        sha256(name)
        times[name] = time.perf_counter() - started
    return sum(times[name] for name in files)


def measure(folder: Path) -> pd.DataFrame:
    """Measure all runs below a folder.

    Args:
        folder: Results of a finished run.

    Returns:
        One row per run: step, seconds, hashing_seconds, bytes.

    Raises:
        PipelineError: If the folder has no records.
    """
    records = (read_json(path) for path in sorted(folder.rglob(f"*{RECORD_SUFFIX}")))
    runs = {(record["command"], record["started"]): record for record in records}
    if not runs:
        raise PipelineError(f"{folder}: expected records *{RECORD_SUFFIX}, found none")
    times: dict[str, float] = {}
    rows = []
    for record in runs.values():
        sizes = {file["path"]: file["size"] for file in record["inputs"] + record["outputs"]}
        rows.append((
            record["step"],
            record["seconds"],
            hashing_seconds(set(sizes), times),
            sum(sizes.values()),
        ))
    return pd.DataFrame(rows, columns=["step", "seconds", "hashing_seconds", "bytes"])


def main() -> None:
    """Print the share of hashing by step and in all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="folder of a finished run")
    runs = measure(parser.parse_args().results)
    by_step = runs.groupby("step").sum()
    by_step.loc["all"] = by_step.sum()
    by_step["percent"] = 100 * by_step.hashing_seconds / by_step.seconds
    by_step["MB_per_second"] = by_step.bytes / 1e6 / by_step.hashing_seconds
    print(by_step.round({"seconds": 1, "hashing_seconds": 3, "percent": 2, "MB_per_second": 0}))


if __name__ == "__main__":
    main()
