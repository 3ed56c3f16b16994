"""Task arithmetic with pre-trained models: the library behind the pipeline.

Example:
    >>> from task_arithmetic import TaskVector, linearize
    >>> tau = TaskVector.between(pretrained, finetuned)
    >>> edited = (0.3 * tau).apply_to(pretrained)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from task_arithmetic.tangent import linearize
    from task_arithmetic.vectors import TaskVector

__all__ = ["TaskVector", "linearize"]
_HOMES = {"TaskVector": "vectors", "linearize": "tangent"}


def __getattr__(name: str) -> Any:
    # Imported on first use: the Snakefile and the light steps use this package without torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'task_arithmetic' has no attribute '{name}'")
    return getattr(importlib.import_module(f"task_arithmetic.{_HOMES[name]}"), name)
