"""What made what: the digest of the code behind a step, and the record beside every artifact.

A step runs inside `recorded_step`. Before it, every input is compared with what its own record
says of it, so a damaged file stops the step that would have used it. After it, each output X gets
`X.lineage.json`, written last: a record beside an artifact means that the artifact is whole.
A record follows `workflow/schemas/lineage.schema.json` and ends with a seal, the digest of the rest
of it, so that an edited record is noticed.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import resource
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema

from task_arithmetic.artifacts import PipelineError, digest, read_json, sha256, write_json
from task_arithmetic.environment import describe_environment

SCHEMA_VERSION = 2
SCHEMA_FILE = Path(__file__).parents[1] / "schemas" / "lineage.schema.json"
RECORD_SUFFIX = ".lineage.json"
PACKAGE = Path(__file__).parent


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
        outputs: The files it writes.
        inputs: The files it reads: path, size and SHA-256.
        facts: What the step adds while it runs, such as how many columns it computed.
    """

    name: str
    settings: Mapping[str, Any]
    modules: tuple[str, ...]
    outputs: Sequence[Path]
    inputs: list[dict[str, Any]]
    facts: dict[str, Any] = field(default_factory=dict)

    def sha256_of(self, path: Path) -> str:
        """Return the SHA-256 of an input, hashed once before the step began."""
        found = {entry["path"]: entry["sha256"] for entry in self.inputs}
        return found[project_path(path)]

    def reuses(self, paths: Sequence[Path]) -> None:
        """Check and record files that the step found it can reuse; they are inputs like others."""
        self.inputs += [_checked_input(path) for path in paths]


def record_path(artifact: Path | str) -> Path:
    """Return the path of the record beside an artifact."""
    artifact = Path(artifact)
    return artifact.with_name(f"{artifact.name}{RECORD_SUFFIX}")


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
    started, clock = datetime.now(UTC), time.monotonic()
    step = Step(name, settings, modules, outputs, [_checked_input(Path(path)) for path in inputs])
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
        "seeds": dict(_seeds(settings)),
        "inputs": step.inputs,
        "outputs": [_described(Path(path)) for path in outputs],
        "code": {
            "digest": code_digest(*modules),
            "modules": list(modules),
            "files": [path.name for path in source_files(*modules)],
        },
        **describe_environment(),
        "facts": step.facts,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - clock, 3),
        # Linux reports kibibytes.
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    for path in outputs:
        write_record(path, {"artifact": project_path(Path(path)), **record})


def write_record(artifact: Path | str, record: Mapping[str, Any]) -> None:
    """Seal a record and write it beside its artifact."""
    write_json(record_path(artifact), {**record, "seal": _seal(record)})


def read_record(artifact: Path | str) -> dict[str, Any]:
    """Read and check the record beside an artifact.

    Args:
        artifact: The artifact, which need not be there itself.

    Returns:
        The record.

    Raises:
        PipelineError: If it is missing, is no record of this schema, or was edited.
    """
    path = record_path(artifact)
    record = read_json(path)
    error = jsonschema.exceptions.best_match(_validator().iter_errors(record))
    if error is not None:
        raise PipelineError(f"{path}: not a record of version {SCHEMA_VERSION}: {error.message}")
    if record["seal"] != _seal(record):
        raise PipelineError(
            f"{path}: edited since it was written (its seal is {record['seal'][:12]}…, its content "
            f"has {_seal(record)[:12]}…)"
        )
    return record


@functools.cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(read_json(SCHEMA_FILE))


def _seal(record: Mapping[str, Any]) -> str:
    return digest({key: value for key, value in record.items() if key != "seal"})


def _seeds(settings: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, int]]:
    """Yield every seed in nested settings with the keys that lead to it."""
    for key, value in settings.items():
        if key == "seed":
            yield f"{place}{key}", value
        elif isinstance(value, Mapping):
            yield from _seeds(value, f"{place}{key}.")


def project_path(path: Path) -> str:
    """Return a path relative to the project, in which every command runs."""
    # Links are kept: an artifact may be one, into the cache that workflows share.
    absolute, folder = path.absolute(), Path.cwd()
    return str(absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute)


def _described(path: Path) -> dict[str, Any]:
    return {"path": project_path(path), "size": path.stat().st_size, "sha256": sha256(path)}


def _checked_input(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise PipelineError(f"{path}: input file not found")
    found = _described(path)
    if record_path(path).exists():
        outputs = read_record(path)["outputs"]
        recorded = {Path(output["path"]).name: output["sha256"] for output in outputs}
        expected = recorded.get(path.name)
        if expected is not None and expected != found["sha256"]:
            raise PipelineError(
                f"{path}: damaged or modified since it was made (expected SHA-256 "
                f"{expected[:12]}…, found {found['sha256'][:12]}…, {found['size']} bytes); "
                "delete it and rerun, and the step that makes it will make it again"
            )
    return found
