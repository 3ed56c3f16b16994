"""Weights that others made: named tensors out of torch files and safetensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from task_arithmetic.artifacts import PipelineError
from task_arithmetic.unpickling import Bag, RefusedError, read_torch_file

# Where a pickled torch module keeps what a state dict names without these words.
MODULE_PARTS = ("_parameters", "_buffers", "_modules")


def read_foreign(path: Path | str) -> dict[str, Tensor]:
    """Read the named tensors of a file that another program wrote.

    Args:
        path: Safetensors; or what `torch.save` (of any version) or `torch.jit.save` wrote: a state
            dict, or whole pickled modules, whose parameters get the names of their state dict.

    Returns:
        Tensors by dotted name, on the CPU.

    Raises:
        PipelineError: If the file is missing, damaged, has no tensors, or is a pickle that asks to
            call something: then nothing has been called.
    """
    try:
        with Path(path).open("rb") as file:
            start = file.read(9)
            file.seek(0)
            # Safetensors begin with the length of a JSON header, which may be any eight bytes.
            safe = start[8:] == b"{"
            value = safetensors.torch.load_file(path) if safe else read_torch_file(file)
        tensors = dict(named_tensors(value))
    except RefusedError as error:
        raise PipelineError(f"{path}: {error}") from error
    # A damaged or hostile file can fail in any way.
    except Exception as error:
        raise PipelineError(
            f"{path}: expected safetensors or a file written by torch.save, but it could not be "
            f"read ({type(error).__name__}: {error})"
        ) from error
    if not tensors:
        raise PipelineError(f"{path}: expected named tensors, found none in it")
    return tensors


def named_tensors(
    value: Any, prefix: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Walk through containers and bags and yield their tensors.

    Args:
        value: What was read.
        prefix: The dotted name so far.
        seen: The containers that were entered: each is once, by its first name.

    Yields:
        Pairs of a dotted name and a tensor.
    """
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        yield prefix, value
    elif id(value) not in seen:
        seen.add(id(value))
        for name, part in _parts(value):
            inner = f"{prefix}.{name}" if prefix and name else prefix or name
            yield from named_tensors(part, inner, seen)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Bag):
        parts = vars(value)
        modules = [parts[name] for name in MODULE_PARTS if name in parts]
        yield from (("", part) for part in modules) if modules else parts.items()
    elif isinstance(value, Mapping):
        yield from ((str(name), part) for name, part in value.items())
    elif isinstance(value, list | tuple):
        yield from ((str(place), part) for place, part in enumerate(value))


def below_prefix(tensors: Mapping[str, Tensor], expected: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors below the prefix that has the most of the expected names.

    Wrappers put one before every name: `module.`, `image_encoder.model.visual.`.

    Args:
        tensors: Tensors by name.
        expected: The names that a module has.

    Returns:
        All tensors below that prefix, without it; none if no expected name is there at all.
    """
    names = set(expected)
    found: dict[str, int] = defaultdict(int)
    for name in tensors:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in names:
                found["".join(f"{part}." for part in parts[:start])] += 1
    if not found:
        return {}
    prefix = max(found, key=found.__getitem__)
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
