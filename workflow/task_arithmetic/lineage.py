"""What made what: the digest of the code behind a step, and the record beside every artifact.

A step runs inside `recorded_step`. Before it, every input is compared with what its own record
says of it, so a damaged file stops the step that would have used it. After it, each output X gets
`X.lineage.json`, written last: a record beside an artifact means that the artifact is whole.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from task_arithmetic.artifacts import PipelineError, read_json, sha256, write_json

SCHEMA_VERSION = 1
PACKAGE = Path(__file__).parent
# The packages whose version can change a number.
RECORDED_PACKAGES = (
    "accelerate", "datasets", "matplotlib", "numpy", "open_clip_torch", "pandas", "pillow",
    "pyarrow", "safetensors", "scikit-image", "scikit-learn", "snakemake", "torch", "torchvision",
)  # fmt: skip


# --- Code ------------------------------------------------------------------------------------


@functools.cache
def source_files(*modules: str) -> tuple[Path, ...]:
    """Return the sources of project modules and of all project modules that they import.

    Args:
        *modules: Names of modules of this package, such as `finetune`.

    Returns:
        Paths of the source files, sorted.

    Raises:
        ValueError: If the package has no module of a given name.
    """
    found: set[Path] = set()
    waiting = list(modules)
    while waiting:
        path = PACKAGE / f"{waiting.pop()}.py"
        if not path.exists():
            raise ValueError(f"task_arithmetic has no module '{path.stem}'")
        if path not in found:
            found.add(path)
            waiting += _imported_modules(ast.parse(path.read_text(encoding="utf-8")))
    return tuple(sorted(found))


@functools.cache
def code_digest(*modules: str) -> str:
    """Return a digest of the code that computes a step.

    It covers the given modules and every project module that they import, as syntax trees without
    comments and docstrings: a reformatted file keeps its digest, a changed loss does not.

    Args:
        *modules: Names of modules of this package, such as `finetune`.

    Returns:
        A SHA-256 in hexadecimal.
    """
    summary = hashlib.sha256()
    for path in source_files(*modules):
        tree = _without_docstrings(ast.parse(path.read_text(encoding="utf-8")))
        summary.update(f"{path.stem}\n{ast.dump(tree)}\n".encode())
    return summary.hexdigest()


def _imported_modules(tree: ast.Module) -> Iterator[str]:
    """Yield the names of the project modules that a syntax tree imports, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "task_arithmetic":
            yield from (name.name for name in node.names if (PACKAGE / f"{name.name}.py").exists())
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "task_arithmetic."
        ):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            names = (name.name.split(".") for name in node.names)
            yield from (parts[1] for parts in names if parts[0] == "task_arithmetic" and parts[1:])


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
    return tree


# --- Records ---------------------------------------------------------------------------------


@dataclass
class Step:
    """What a running step knows of itself.

    Attributes:
        name: The command, such as `finetune`.
        settings: Its named parameters.
        modules: The project modules that compute it.
        inputs: The files it reads.
        outputs: The files it writes.
        facts: What the step adds while it runs: device, resumed steps, throughput.
    """

    name: str
    settings: Mapping[str, Any]
    modules: tuple[str, ...]
    inputs: Sequence[Path]
    outputs: Sequence[Path]
    facts: dict[str, Any] = field(default_factory=dict)


def record_path(artifact: Path | str) -> Path:
    """Return the path of the record beside an artifact."""
    artifact = Path(artifact)
    return artifact.with_name(f"{artifact.name}.lineage.json")


@contextmanager
def recorded_step(
    name: str,
    settings: Mapping[str, Any],
    modules: tuple[str, ...],
    inputs: Sequence[Path],
    outputs: Sequence[Path],
) -> Iterator[Step]:
    """Check a step's inputs, run it, and record what made its outputs.

    Args:
        name: The command, such as `finetune`.
        settings: Its named parameters.
        modules: The project modules that compute it, for the code digest.
        inputs: The files it reads.
        outputs: The files it writes.

    Yields:
        The running step, to which the block may add facts.

    Raises:
        PipelineError: If an input is missing or is not what its own record says, or an output was
            not written.
    """
    step = Step(name, settings, modules, inputs, outputs)
    started, clock = datetime.now(UTC), time.monotonic()
    described_inputs = [_checked_input(Path(path)) for path in inputs]
    for path in outputs:
        # A step that is killed between an output and its record must not leave an old record.
        record_path(path).unlink(missing_ok=True)
    yield step
    missing = [str(path) for path in outputs if not Path(path).exists()]
    if missing:
        raise PipelineError(f"step {name} ended without writing {', '.join(missing)}")
    record = {
        "schema_version": SCHEMA_VERSION,
        "step": name,
        "command": shlex.join(["task-arithmetic", *sys.argv[1:]]),
        "settings": dict(settings),
        "inputs": described_inputs,
        "outputs": [_described(Path(path)) for path in outputs],
        "code": {
            "digest": code_digest(*modules),
            "files": [path.name for path in source_files(*modules)],
        },
        "git": _git_state(),
        "python": platform.python_version(),
        "packages": _package_versions(),
        "facts": step.facts,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - clock, 3),
        # Linux reports kibibytes.
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    for path in outputs:
        write_json(record_path(path), {"artifact": os.fspath(path), **record})


def _described(path: Path) -> dict[str, Any]:
    return {"path": os.fspath(path), "size": path.stat().st_size, "sha256": sha256(path)}


def _checked_input(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise PipelineError(f"{path}: input file not found")
    found = _described(path)
    if record_path(path).exists():
        outputs = read_json(record_path(path))["outputs"]
        recorded = {Path(output["path"]).name: output["sha256"] for output in outputs}
        expected = recorded.get(path.name)
        if expected is not None and expected != found["sha256"]:
            raise PipelineError(
                f"{path}: damaged or modified since it was made (expected SHA-256 "
                f"{expected[:12]}…, found {found['sha256'][:12]}…, {found['size']} bytes); "
                "delete it and rerun, and the step that makes it will make it again"
            )
    return found


@functools.cache
def _git_state() -> dict[str, Any] | None:
    """Return the commit of the working folder and whether it has changes; None outside git."""
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


def _package_versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in RECORDED_PACKAGES}
