"""Files in and out: atomic writes, SHA-256, safetensors, CSV and JSON; pickle is never read.

Every file of the project passes through here. A file appears under its name whole or not at all,
and an unreadable one raises an error that says which file it is and what to do about it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    import pandas as pd

METADATA_KEY = "task_arithmetic"


class PipelineError(Exception):
    """An error whose message is for the user: what was found, where, and what was expected."""


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` when the block ends without an error.

    Args:
        path: The final path; its folder is made if needed.

    Yields:
        A path in the same folder, with the same suffix, for the block to write to.

    Raises:
        PipelineError: If the block or the final flush could not write (a full disk, say). Nothing
            is left under `path` that was not there before, and no temporary file either.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        # mkstemp makes private files; results are for everybody whom the umask admits.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise PipelineError(f"{path}: could not be written: {error}") from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value, the same for every order of its keys."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """Return a JSON value as one line of text, the same for every order of its keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def write_text(path: Path | str, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write a JSON file atomically, indented for people."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Args:
        path: The file to read.

    Returns:
        Its content.

    Raises:
        PipelineError: If the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PipelineError(_unreadable(path, "a JSON file", error)) from error


def write_csv(path: Path | str, frame: pd.DataFrame) -> None:
    """Write a data frame atomically as CSV without its index."""
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False)


def read_csv(path: Path | str, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a CSV file.

    Args:
        path: The file to read.
        columns: The columns that it must have, in order; None for any.

    Returns:
        The table.

    Raises:
        PipelineError: If the file is missing, is not CSV, or has other columns.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise PipelineError(_unreadable(path, "a CSV file", error)) from error
    if columns is not None and list(frame.columns) != columns:
        raise PipelineError(f"{path}: expected columns {columns}, found {list(frame.columns)}")
    return frame


def write_tensors(
    path: Path | str, tensors: Mapping[str, Any], metadata: Mapping[str, str]
) -> None:
    """Write named torch tensors or numpy arrays atomically as safetensors.

    Args:
        path: The file to write.
        tensors: Tensors by name, all of one kind (torch or numpy), on any device.
        metadata: What the file is: texts by name, among them `kind`.
    """
    first = next(iter(tensors.values()), None)
    if type(first).__module__.startswith("torch"):
        from safetensors.torch import save_file

        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    else:
        from safetensors.numpy import save_file
    with atomic_path(path) as temporary:
        # One entry: safetensors writes several in any order, and equal files must be equal bytes.
        save_file(dict(tensors), temporary, metadata={METADATA_KEY: canonical_json(dict(metadata))})


def read_tensors(
    path: Path | str,
    kind: str,
    framework: Literal["pt", "numpy"] = "pt",
    prefix: str = "",
) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the named tensors of a safetensors file and its metadata.

    Args:
        path: The file to read.
        kind: What its metadata must say that it is.
        framework: `pt` for torch tensors, `numpy` for arrays.
        prefix: Read only names with this prefix, and take it off.

    Returns:
        Tensors by name (on the CPU), and the metadata.

    Raises:
        PipelineError: If the file is missing, truncated or damaged, is of another kind, or has no
            tensor with the prefix.
    """
    try:
        with safe_open(str(path), framework=framework) as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            names = [name for name in file.keys() if name.startswith(prefix)]  # ruff: ignore[in-dict-keys]
            tensors = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    except (OSError, ValueError, SafetensorError) as error:
        raise PipelineError(_unreadable(path, "a safetensors file", error)) from error
    if metadata.get("kind") != kind:
        raise PipelineError(f"{path}: expected kind '{kind}', found '{metadata.get('kind')}'")
    if prefix and not tensors:
        raise PipelineError(f"{path}: expected tensors named '{prefix}…', found none")
    return tensors, metadata


def _unreadable(path: Path | str, expected: str, error: Exception) -> str:
    if not Path(path).exists():
        return f"{path}: expected {expected}, found no file"
    return (
        f"{path}: expected {expected}, but it could not be read ({error}); "
        "delete it and rerun, and the step that makes it will make it again"
    )
