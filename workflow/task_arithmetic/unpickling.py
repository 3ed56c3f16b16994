"""Torch files read without running anything that they ask for.

A torch file is a pickle, and a pickle is a program that may call any function of any installed
package. Here it meets an unpickler that imports nothing: it knows tensors, storages and plain
containers; every other class becomes a `Bag` of attributes, and every other call is refused.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch
from torch import Tensor

from task_arithmetic.artifacts import PipelineError

# How torch.save began its files before version 1.6.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
STORAGE_TYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}  # fmt: skip
DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


class RefusedError(PipelineError):
    """A pickle asked for what no checkpoint needs."""


def read_torch_file(file: BinaryIO) -> Any:
    """Read what `torch.save`, of any version, or `torch.jit.save` wrote.

    Args:
        file: The opened file.

    Returns:
        Tensors in plain containers and bags.

    Raises:
        RefusedError: If it asks to call or change something; nothing has been called or changed.
        ValueError: If it is damaged; a damaged pickle may raise any other error, too.
    """
    start = file.read(2)
    file.seek(0)
    return _read_zip(zipfile.ZipFile(file)) if start == b"PK" else _read_legacy(file)


class _Inert(type):
    """The type of the classes that stand for unknown ones: they cannot be called or changed."""

    def __call__(cls, *_: Any, **__: Any) -> NoReturn:
        raise RefusedError(
            f"asks to call {cls.__module__}.{cls.__qualname__}, which no checkpoint needs; "
            "nothing was called. Do not trust this file"
        )

    def __setattr__(cls, name: str, _: Any) -> NoReturn:
        raise RefusedError(f"asks to change {cls.__module__}.{cls.__qualname__}.{name}")


class Bag(metaclass=_Inert):
    """What is left of an object of an unknown class: its attributes."""

    def __new__(cls, *_: Any, **__: Any) -> Bag:
        """Make an empty bag, whatever the class was to be made from."""
        return object.__new__(cls)

    def __setitem__(self, name: Any, value: Any) -> None:
        vars(self)[str(name)] = value

    def append(self, value: Any) -> None:
        """Take an item of what was a kind of list."""
        self[len(vars(self))] = value

    def extend(self, values: Sequence[Any]) -> None:
        """Take the items of what was a kind of list."""
        for value in values:
            self.append(value)


class _Known:
    """A function that a pickle may call; it cannot be changed."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, _: Any) -> NoReturn:
        raise RefusedError(f"asks to change {self._function.__name__}.{name}")


def _strided(
    storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_
) -> Tensor:
    # Refuses what is outside of the storage.
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)


def _first(value: Any, *_: Any) -> Any:
    return value


def _empty_bag(kind: type, *_: Any) -> Bag:
    return kind.__new__(kind)


def _latin1(text: str, _: str) -> bytes:
    return text.encode("latin1")


KNOWN: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor"): _strided,
    ("torch._utils", "_rebuild_tensor_v2"): _strided,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch", "Size"): tuple,
    ("torch", "device"): str,
    # TorchScript's typed lists.
    ("torch.jit._pickle", "build_intlist"): _first,
    ("torch.jit._pickle", "build_doublelist"): _first,
    ("torch.jit._pickle", "build_boollist"): _first,
    ("torch.jit._pickle", "build_tensorlist"): _first,
    ("torch.jit._pickle", "restore_type_tag"): _first,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): lambda *_: defaultdict(),
    ("copy_reg", "_reconstructor"): _empty_bag,
    ("copyreg", "_reconstructor"): _empty_bag,
    ("_codecs", "encode"): _latin1,
    # Part of the preprocessing that the papers' pickled encoders carry.
    ("torchvision.transforms.functional", "InterpolationMode"): _first,
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (set, frozenset)
    },
}


class _Unpickler(pickle.Unpickler):
    """Unpickles tensors, containers and bags; it imports nothing."""

    def __init__(self, file: BinaryIO, storage_of: Callable[..., Tensor] | None = None) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage_of = storage_of
        self._bags: dict[tuple[str, str], type] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a global name: a known function, a type of storage, or a bag."""
        if (module, name) in KNOWN:
            return _Known(KNOWN[module, name])
        if module in {"torch", "torch.cuda"} and name in STORAGE_TYPES:
            return STORAGE_TYPES[name]
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        fields = {"__module__": module, "__qualname__": name}
        return self._bags.setdefault((module, name), _Inert(name, (Bag,), fields))

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage, as a flat tensor, or the old kind of module class that is meant."""
        match pid:
            case ("module", kind, *_):
                return kind
            case ("storage", torch.dtype() as dtype, str(key), _, int(size), *view) if (
                self._storage_of
            ):
                return self._storage_of(dtype, key, size, *view)
        raise RefusedError(f"expected a storage of tensors, found {pid!r}")


def _read_zip(archive: zipfile.ZipFile) -> Any:
    """Read what torch.save has written since 1.6, and torch.jit.save."""
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"expected one data.pkl in the archive, found {len(pickles)}")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
        raise ValueError("expected tensors in little-endian order")
    storages: dict[str, Tensor] = {}

    def storage_of(dtype: torch.dtype, key: str, size: int, *_: Any) -> Tensor:
        if key not in storages:
            entry = archive.getinfo(f"{root}data/{key}")
            # Stored as they are: a small file cannot claim to hold what fills the memory.
            if (entry.compress_size, entry.file_size) != (size * dtype.itemsize,) * 2:
                raise ValueError(
                    f"expected {size * dtype.itemsize} bytes in {entry.filename}, "
                    f"found {entry.compress_size}"
                )
            storages[key] = _flat(archive.read(entry), dtype)
        return storages[key]

    with archive.open(pickles[0]) as file:
        return _Unpickler(file, storage_of).load()


def _read_legacy(file: BinaryIO) -> Any:
    """Read what torch.save wrote before 1.6: pickles, then the storages one after another."""
    available = Path(file.name).stat().st_size
    if _Unpickler(file).load() != LEGACY_MAGIC:
        raise ValueError("a pickle, but not one of torch.save")
    _version, _system = _Unpickler(file).load(), _Unpickler(file).load()
    storages: dict[str, Tensor] = {}

    def storage_of(
        dtype: torch.dtype, key: str, size: int, view: tuple[str, int, int] | None = None
    ) -> Tensor:
        if size * dtype.itemsize > available:
            raise ValueError(f"expected a storage of {size} numbers, found {available} bytes")
        # Tensors are views of it; its numbers come later in the file.
        whole = storages.setdefault(key, torch.empty(size, dtype=dtype))
        return whole if view is None else whole[view[1] : view[1] + view[2]]

    value = _Unpickler(file, storage_of).load()
    for key in _Unpickler(file).load():
        storage, size = storages[key], int.from_bytes(file.read(8), "little")
        if size != len(storage):
            raise ValueError(f"expected {len(storage)} numbers in a storage, found {size}")
        storage.copy_(_flat(file.read(size * storage.dtype.itemsize), storage.dtype, size))
    return value


def _flat(content: bytes, dtype: torch.dtype, size: int | None = None) -> Tensor:
    """Return bytes as a flat tensor of a number of elements, if given."""
    if size is not None and len(content) != size * dtype.itemsize:
        raise ValueError(f"expected {size * dtype.itemsize} bytes, found {len(content)}: truncated")
    # A bytearray, for a tensor that may be written to.
    return (
        torch.frombuffer(bytearray(content), dtype=dtype)
        if content
        else torch.empty(0, dtype=dtype)
    )
