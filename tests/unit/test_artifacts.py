"""Files: whole or absent, and errors that name them."""

import errno
import os

import numpy as np
import pandas as pd
import pytest
import torch

from task_arithmetic import artifacts
from task_arithmetic.artifacts import PipelineError


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_written_file_replaces_the_old_one_and_leaves_no_temporary(tmp_path):
    path = tmp_path / "new" / "table.csv"
    for value in (1, 2):
        artifacts.write_csv(path, pd.DataFrame({"alpha": [value]}))
    assert artifacts.read_csv(path, ["alpha"]).alpha.tolist() == [2]
    assert [file.name for file in path.parent.iterdir()] == ["table.csv"]


def test_a_failing_block_leaves_the_old_content(tmp_path):
    path = tmp_path / "old.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), artifacts.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["old.txt"]


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(PipelineError, match=r"tau\.safetensors: could not be written.*No space"):
        artifacts.write_tensors(tmp_path / "tau.safetensors", {"w": torch.ones(3)}, {"kind": "x"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("framework", ["pt", "numpy"])
def test_tensors_and_metadata_come_back(tmp_path, framework):
    values = torch.arange(6.0).reshape(2, 3)
    written = values if framework == "pt" else values.numpy()
    path = tmp_path / "x.safetensors"
    artifacts.write_tensors(path, {"visual.w": written, "other": written + 1}, {"kind": "encoder"})
    tensors, metadata = artifacts.read_tensors(path, "encoder", framework, prefix="visual.")
    assert list(tensors) == ["w"]
    np.testing.assert_array_equal(np.asarray(tensors["w"]), values.numpy())
    assert metadata == {"kind": "encoder"}


@pytest.mark.parametrize(
    ("content", "reader"),
    [
        (b"\x80\x04K\x01.", lambda path: artifacts.read_tensors(path, "x")),  # a pickle
        (b"", lambda path: artifacts.read_tensors(path, "x")),
        (b"{", artifacts.read_json),
        (b"", lambda path: artifacts.read_csv(path, ["alpha"])),
    ],
)
def test_a_file_that_is_something_else_is_named(tmp_path, content, reader):
    path = tmp_path / "broken.file"
    path.write_bytes(content)
    with pytest.raises(PipelineError, match=r"broken\.file: expected"):
        reader(path)


def test_other_columns_are_named(tmp_path):
    artifacts.write_csv(tmp_path / "x.csv", pd.DataFrame({"a": [1]}))
    with pytest.raises(PipelineError, match=r"expected columns \['b'\], found \['a'\]"):
        artifacts.read_csv(tmp_path / "x.csv", ["b"])


def test_a_digest_does_not_depend_on_the_order_of_keys():
    assert artifacts.digest({"a": 1, "b": 2}) == artifacts.digest({"b": 2, "a": 1})
    assert artifacts.digest({"a": 1, "b": 2}) != artifacts.digest({"a": 2, "b": 1})
