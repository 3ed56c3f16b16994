"""Several processes that share one step: started here, told apart by their rank."""

from __future__ import annotations

import os
import sys


def is_distributed() -> bool:
    """Return whether this process was started as one of several."""
    return "RANK" in os.environ


def is_main_process() -> bool:
    """Return whether this process is the one that writes files and logs."""
    return os.environ.get("RANK", "0") == "0"


def launch(processes: int) -> None:
    """Replace this process by a launcher that runs the same command in several processes.

    Args:
        processes: How many; each takes a GPU, or on a machine without GPUs they share its CPU.
    """
    import torch

    if not torch.cuda.is_available():
        # Accelerate would take each process for the only one.
        os.environ["ACCELERATE_USE_CPU"] = "true"
    # --standalone finds a free port, as several such steps may share a machine; after "--" no
    # option is the launcher's.
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", str(processes), "--module", "--", "task_arithmetic", *sys.argv[1:],
    ]  # fmt: skip
    os.execv(sys.executable, command)
