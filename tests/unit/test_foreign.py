"""Files of others: what they hold comes back; what they ask to run is refused and does not run."""

import io
import os
import pickle
import struct
import sys
import types
import zipfile

import pytest
import torch
from torch import nn

from task_arithmetic.artifacts import PipelineError
from task_arithmetic.foreign import below_prefix, read_foreign

FORMATS = {"zip": True, "legacy": False}


class Call:
    """Asks to be unpickled by calling a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


# --- What comes back ---------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", FORMATS.values(), ids=FORMATS)
def test_tensors_of_every_type_and_stride_come_back(tmp_path, zipped):
    base = torch.arange(12.0).reshape(3, 4)
    state = {
        "rows": base[1:],
        "transposed": base.T,
        "half": base.half(),
        "bfloat": base.bfloat16(),
        "double": base.double(),
        "whole": base.long(),
        "mask": base > 5,
        "scalar": torch.tensor(2.5),
        "nothing": torch.empty(0, 3),
        "parameter": nn.Parameter(base.clone()),
    }
    torch.save(state, tmp_path / "file", _use_new_zipfile_serialization=zipped)
    assert_same(read_foreign(tmp_path / "file"), {name: t.detach() for name, t in state.items()})


@pytest.mark.parametrize("zipped", FORMATS.values(), ids=FORMATS)
def test_a_pickled_module_of_unknown_class_gives_its_state_dict(tmp_path, monkeypatch, zipped):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)
            self.layers = nn.Sequential(nn.Linear(3, 4), nn.GELU())
            self.listed = nn.ParameterList([torch.randn(2), torch.randn(3)])
            self.remark, self.sizes = {"lr": 1e-5}, {3, 4}
            self.itself = [self]

    # The module is there when the file is written, and is not when it is read.
    module = types.ModuleType("their_modeling")
    module.Encoder, Encoder.__module__, Encoder.__qualname__ = Encoder, "their_modeling", "Encoder"
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "their_modeling", module)
        encoder = Encoder()
        torch.save(encoder, tmp_path / "file", _use_new_zipfile_serialization=zipped)
    assert_same(read_foreign(tmp_path / "file"), encoder.state_dict())
    assert "their_modeling" not in sys.modules


def test_a_torchscript_archive_gives_its_state_dict(tmp_path):
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    torch.jit.trace(module, torch.randn(2, 3)).save(tmp_path / "file")
    found = read_foreign(tmp_path / "file")
    assert set(found) == set(module.state_dict())
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(found[name], tensor)


def test_the_prefix_with_most_of_the_names_is_taken_off():
    tensors = {
        "model.positional_embedding": torch.zeros(1),
        "model.visual.positional_embedding": torch.zeros(2),
        "model.visual.conv1.weight": torch.zeros(3),
    }
    found = below_prefix(tensors, ["positional_embedding", "conv1.weight"])
    assert {name: len(tensor) for name, tensor in found.items()} == {
        "positional_embedding": 2,
        "conv1.weight": 3,
    }


# --- What is refused ---------------------------------------------------------------------------


def hostile_calls(mark):
    """Return calls that would leave a file named `mark`, or open a door to it."""
    command = f"touch {mark}"
    return {
        "os.system": Call(os.system, command),
        "eval": Call(eval, f"open({str(mark)!r}, 'w')"),
        "exec": Call(exec, f"open({str(mark)!r}, 'w')"),
        "open": Call(open, str(mark), "w"),
        "getattr": Call(getattr, "text", "upper"),
        "import": Call(__import__, "os"),
        "torch.load": Call(torch.load, str(mark)),
        "torch.save": Call(torch.save, {}, str(mark)),
        "storage": Call(torch.storage._load_from_bytes, b"anything"),
        "partial": Call(__import__("functools").partial, os.system, command),
        "map": Call(map, os.system, [command]),
        "nested": Call(set, [Call(os.system, command)]),
    }


WRAPPERS = {
    "alone": lambda call: call,
    "beside tensors": lambda call: {"weight": torch.zeros(2), "bias": call},
    "deep inside": lambda call: {"state_dict": [{"layers": (torch.zeros(2), [call])}]},
}


@pytest.mark.parametrize("zipped", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("name", list(hostile_calls("")))
def test_a_pickle_that_calls_is_refused_and_nothing_is_called(tmp_path, name, wrap, zipped):
    mark, path = tmp_path / "mark", tmp_path / "file"
    call = hostile_calls(mark)[name]
    torch.save(wrap(call), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(PipelineError, match=r"file: asks to call .*; nothing was called"):
        read_foreign(path)
    assert not mark.exists()


def torch_zip(path, program):
    """Write a zip of torch.save whose pickle is the given bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", struct.pack("<4f", 1, 2, 3, 4))


def program(*parts):
    return b"\x80\x04" + b"".join(parts) + b"."


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def named(module, name):
    return text(module) + text(name) + b"\x93"  # STACK_GLOBAL


STORAGE = b"(" + text("storage") + named("torch", "FloatStorage") + text("0") + text("cpu")
REBUILD = named("torch._utils", "_rebuild_tensor_v2")


def rebuilt(count, offset, size):
    """Return a call that rebuilds a tensor over the storage of four numbers."""
    storage = STORAGE + b"K" + bytes([count]) + b"tQ"
    return (
        REBUILD + b"(" + storage + b"J" + struct.pack("<i", offset)
        + b"K" + bytes([size]) + b"\x85K\x01\x85\x89" + named("collections", "OrderedDict")
        + b")RtR"
    )  # fmt: skip


def test_a_hand_written_pickle_of_a_tensor_is_read(tmp_path):
    torch_zip(tmp_path / "file", program(b"}", text("w"), rebuilt(4, 1, 3), b"s"))
    assert read_foreign(tmp_path / "file")["w"].tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("the old INST opcode", b"(" + text("touch mark") + b"ios\nsystem\n"),
        ("the old OBJ opcode", b"(" + named("os", "system") + text("touch mark") + b"o"),
        ("a path of attributes", named("os", "path.os.system") + text("touch mark") + b"\x85R"),
        ("a state for a known function", REBUILD + b"N}" + text("__defaults__") + b"K\x01s\x86b"),
        ("a state for a class", named("os", "system") + b"N}" + text("x") + b"K\x01s\x86b"),
        ("a class that is a function", REBUILD + b")\x81"),
        ("an object of a class without tensors", named("os", "system") + b")\x81"),
        ("an extension of the registry", b"\x82\x01"),
        ("a tensor over text", REBUILD + b"(" + text("storage") + b"K\x00))tR"),
        ("a storage that is longer than its file", rebuilt(5, 0, 4)),
        ("a tensor beyond its storage", rebuilt(4, 2, 3)),
        ("a tensor before its storage", rebuilt(4, -1, 2)),
        ("a persistent id of another kind", b"(" + text("url") + text("hub") + b"tQ"),
        ("nothing at all", b"N"),
        ("a damaged program", b"\xff"),
    ],
)  # fmt: skip
def test_a_hand_written_pickle_is_refused(tmp_path, monkeypatch, what, body):
    monkeypatch.chdir(tmp_path)
    torch_zip(tmp_path / "file", program(body))
    with pytest.raises(PipelineError, match=r"^file: "):
        read_foreign("file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_containers_that_hold_each_other_many_times_are_read_at_once(tmp_path):
    laughs = [torch.zeros(2)]
    for _ in range(100):
        laughs = [laughs, laughs]
    laughs.append(laughs)
    torch.save(laughs, tmp_path / "file")
    assert len(read_foreign(tmp_path / "file")) == 1


def test_a_compressed_storage_is_refused(tmp_path):
    zeros, path = torch.zeros(10**6), tmp_path / "file"
    torch.save({"w": zeros}, tmp_path / "stored")
    with (
        zipfile.ZipFile(tmp_path / "stored") as stored,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in stored.namelist():
            archive.writestr(name, stored.read(name))
    with pytest.raises(PipelineError, match=r"expected 4000000 bytes in .*data/0, found \d{4}\)"):
        read_foreign(path)


def test_a_plain_pickle_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(pickle.dumps(Call(os.system, f"touch {tmp_path / 'mark'}"), protocol=2))
    with pytest.raises(PipelineError, match=r"asks to call posix.system"):
        read_foreign(path)
    path.write_bytes(pickle.dumps({"weight": [1.0]}, protocol=2))
    with pytest.raises(PipelineError, match=r"a pickle, but not one of torch\.save"):
        read_foreign(path)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("zipped", FORMATS.values(), ids=FORMATS)
def test_a_truncated_file_is_named(tmp_path, zipped):
    content, path = io.BytesIO(), tmp_path / "file"
    torch.save({"w": torch.zeros(100)}, content, _use_new_zipfile_serialization=zipped)
    path.write_bytes(content.getvalue()[:-50])
    with pytest.raises(PipelineError, match=r"file: expected safetensors or a file written by"):
        read_foreign(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PipelineError, match=r"nowhere: .*No such file"):
        read_foreign(tmp_path / "nowhere")
