"""Where a step runs: what of machine, code state and packages can change a number.

Nothing here names a host, a user or a path: records travel between machines and people.
"""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from task_arithmetic.artifacts import sha256

LOCK_FILE = Path(__file__).parents[2] / "envs" / "requirements.lock"
# The packages whose version can change a number.
RECORDED_PACKAGES = (
    "accelerate", "datasets", "matplotlib", "numpy", "open_clip_torch", "pandas", "pillow",
    "pyarrow", "safetensors", "scikit-image", "scikit-learn", "scipy", "snakemake", "timm", "torch",
    "torchvision",
)  # fmt: skip


def describe_environment() -> dict[str, Any]:
    """Return the facts of this process for a record.

    Returns:
        `git` (commit and whether tracked files differ from it; None outside git), `python`,
        `packages` (versions), `lock` (SHA-256 of the lock file they come from, or None), `device`
        and `threads`.
    """
    return {
        "git": _git_state(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in RECORDED_PACKAGES},
        "lock": sha256(LOCK_FILE) if LOCK_FILE.exists() else None,
        "device": _device(),
        "threads": _threads(),
    }


@functools.cache
def _git_state() -> dict[str, Any] | None:
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": bool(changes.strip())}


def _device() -> str:
    """Return `cpu` or the model of the GPU; a step that never imported torch used no GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return "cpu"
    return f"cuda ({torch.cuda.get_device_name()})"


def _threads() -> int:
    """Return the threads of torch, or those that numpy's libraries may use without it."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return torch.get_num_threads()
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return int(limit) if limit.isdigit() and int(limit) else len(os.sched_getaffinity(0))
