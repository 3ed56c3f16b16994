"""Checkpoints of other projects: imported towers compute what theirs compute."""

import json
import sys
import types

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torchvision import transforms
from transformers_state import vision_state
from typer.testing import CliRunner

from task_arithmetic.artifacts import PipelineError, read_json, read_tensors, sha256
from task_arithmetic.cli import app
from task_arithmetic.encoders import Preprocess, build_clip, save_encoder
from task_arithmetic.imports import import_checkpoint
from task_arithmetic.lineage import record_path

ARCHITECTURE = {
    "embed_dim": 8,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 2, "head_width": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1},
}
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def random_clip(seed):
    """Return a model of which no two tensors are equal, unlike one that was just initialized."""
    torch.manual_seed(seed)
    clip = build_clip(ARCHITECTURE)
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return clip


@pytest.fixture
def clip():
    return random_clip(0)


@pytest.fixture
def finetuned(clip):
    """Return the model after a small step away from `clip`."""
    model = build_clip(ARCHITECTURE)
    model.load_state_dict(clip.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.001 * torch.randn_like(parameter)
    return model


def assert_tower(imported, clip, finetuned):
    """Assert that the imported parameters make the tower compute what the fine-tuned one does."""
    assert list(imported) == [name for name, _ in clip.visual.named_parameters()]
    clip.visual.load_state_dict(imported)
    with torch.no_grad():
        torch.testing.assert_close(clip.visual(IMAGES), finetuned.visual(IMAGES))


# --- The papers' repositories ------------------------------------------------------------------


@pytest.fixture
def their_encoder(monkeypatch):
    """Return a class as the papers' repositories define it, known only while files are written."""

    class ImageEncoder(nn.Module):
        def __init__(self, model, keep_text):
            super().__init__()
            self.model = model
            self.train_preprocess = transforms.Compose([
                transforms.Resize(32, transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(32),
                transforms.ToTensor(),
                transforms.Normalize(open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD),
            ])
            self.cache_dir = None
            if not keep_text:
                del self.model.transformer

    module = types.ModuleType("src.modeling")
    module.ImageEncoder, ImageEncoder.__qualname__ = ImageEncoder, "ImageEncoder"
    ImageEncoder.__module__ = "src.modeling"
    monkeypatch.setitem(sys.modules, "src", types.ModuleType("src"))
    monkeypatch.setitem(sys.modules, "src.modeling", module)
    return ImageEncoder


@pytest.mark.parametrize("keep_text", [True, False])
@pytest.mark.parametrize("wrap", [lambda encoder: encoder, lambda encoder: encoder.state_dict(),
                                  nn.DataParallel])  # fmt: skip
def test_a_pickled_image_encoder_is_imported(
    clip, finetuned, their_encoder, tmp_path, monkeypatch, keep_text, wrap
):
    path = tmp_path / "finetuned.pt"
    torch.save(wrap(their_encoder(finetuned, keep_text)), path)
    monkeypatch.delitem(sys.modules, "src.modeling")
    assert_tower(import_checkpoint(path, clip.visual, "nonlinear"), clip, finetuned)


def linearized_state(clip, finetuned):
    """Return the state of a linearized encoder: numbered θ0 and θ in the order of the model."""
    state = {"model_name": "ViT-B-32"}
    for kind, model in (("params0", clip), ("params", finetuned)):
        for number, parameter in enumerate(model.parameters()):
            state[f"model.{kind}.{number}"] = parameter.detach().clone()
    return state


def test_a_linearized_encoder_is_imported_by_its_own_origin(clip, finetuned, tmp_path):
    state = linearized_state(clip, finetuned)
    # Versions of open_clip register their parameters in different orders.
    numbers = torch.randperm(len(list(clip.parameters()))).tolist()
    shuffled = {
        f"model.{kind}.{place}": state[f"model.{kind}.{number}"]
        for kind in ("params0", "params")
        for place, number in enumerate(numbers)
    }
    torch.save(shuffled | {"model_name": "ViT-B-32"}, tmp_path / "linear.pt")
    assert_tower(import_checkpoint(tmp_path / "linear.pt", clip.visual, "linear"), clip, finetuned)


def test_a_linearized_encoder_is_no_nonlinear_one(clip, finetuned, tmp_path):
    torch.save(linearized_state(clip, finetuned), tmp_path / "linear.pt")
    with pytest.raises(PipelineError, match=r"a linearized checkpoint .* of mode nonlinear"):
        import_checkpoint(tmp_path / "linear.pt", clip.visual, "nonlinear")


def test_a_linearized_encoder_of_another_origin_is_refused(clip, finetuned, tmp_path):
    torch.save(linearized_state(clip, finetuned), tmp_path / "linear.pt")
    with pytest.raises(PipelineError, match=r"equal to the encoder's class_embedding \[16\], fou"):
        import_checkpoint(tmp_path / "linear.pt", random_clip(1).visual, "linear")


def test_equal_tensors_in_an_origin_are_not_guessed(clip, finetuned, tmp_path):
    with torch.no_grad():
        clip.visual.ln_pre.weight.fill_(1)
        clip.visual.ln_post.weight.fill_(1)
    torch.save(linearized_state(clip, finetuned), tmp_path / "linear.pt")
    with pytest.raises(PipelineError, match=r"ln_pre.weight \[16\], found several \(params0\.\d+,"):
        import_checkpoint(tmp_path / "linear.pt", clip.visual, "linear")


# --- Transformers ------------------------------------------------------------------------------


def transformers_forward(state, images, heads=2):
    """Compute what a transformers vision tower does, from its named tensors alone."""

    def linear(x, name):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    v = "vision_model"
    patches = F.conv2d(images, state[f"{v}.embeddings.patch_embedding.weight"], stride=16)
    first = state[f"{v}.embeddings.class_embedding"].expand(len(images), 1, -1)
    x = torch.cat([first, patches.flatten(2).mT], dim=1)
    x = norm(x + state[f"{v}.embeddings.position_embedding.weight"], f"{v}.pre_layrnorm")
    for layer in range(2):
        block = f"{v}.encoder.layers.{layer}"
        y = norm(x, f"{block}.layer_norm1")
        q, k, u = (
            linear(y, f"{block}.self_attn.{part}_proj").unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in "qkv"
        )
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)
        y = (weights @ u).transpose(1, 2).flatten(2)
        x = x + linear(y, f"{block}.self_attn.out_proj")
        y = linear(norm(x, f"{block}.layer_norm2"), f"{block}.mlp.fc1")
        x = x + linear(y * torch.sigmoid(1.702 * y), f"{block}.mlp.fc2")
    return norm(x[:, 0], f"{v}.post_layernorm") @ state["visual_projection.weight"].T


def test_a_transformers_tower_computes_the_same_under_our_names(clip, finetuned, tmp_path):
    state = vision_state(finetuned.visual)
    save_file(state, tmp_path / "model.safetensors")
    imported = import_checkpoint(tmp_path / "model.safetensors", clip.visual, "nonlinear")
    assert_tower(imported, clip, finetuned)
    with torch.no_grad():
        torch.testing.assert_close(clip.visual(IMAGES), transformers_forward(state, IMAGES))


def test_a_transformers_tower_without_projection_keeps_the_encoders(clip, finetuned, tmp_path):
    save_file(vision_state(finetuned.visual, projection=False), tmp_path / "model")
    imported = import_checkpoint(tmp_path / "model", clip.visual, "nonlinear")
    finetuned.visual.proj.data.copy_(clip.visual.proj)
    assert torch.equal(imported["proj"], clip.visual.proj)
    assert_tower(imported, clip, finetuned)


def test_a_transformers_tower_without_keys_is_refused_by_name(clip, finetuned, tmp_path):
    state = vision_state(finetuned.visual)
    del state["vision_model.encoder.layers.1.self_attn.k_proj.bias"]
    save_file(state, tmp_path / "model")
    with pytest.raises(PipelineError, match=r"missing transformer.resblocks.1.attn.in_proj_bias "
                       r"\[48\]; unknown .*q_proj.bias \[16\]"):  # fmt: skip
        import_checkpoint(tmp_path / "model", clip.visual, "nonlinear")


@pytest.mark.parametrize("projection", [True, False])
def test_a_real_transformers_model_is_imported(clip, finetuned, tmp_path, projection):
    transformers = pytest.importorskip("transformers")
    options = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=64, projection_dim=8, num_hidden_layers=2,
        num_attention_heads=2, image_size=32, patch_size=16, hidden_act="quick_gelu",
    )  # fmt: skip
    whole = transformers.CLIPVisionModelWithProjection(options).eval()
    if not projection:
        finetuned.visual.proj.data.copy_(clip.visual.proj)
    state = vision_state(finetuned.visual)
    del state["vision_model.embeddings.position_ids"]
    whole.load_state_dict(state)
    with torch.no_grad():
        expected = whole(pixel_values=IMAGES).image_embeds
    model = whole
    if not projection:
        model = transformers.CLIPVisionModel(options)
        tower = {name: state[f"vision_model.{name}"] for name in model.state_dict()}
        model.load_state_dict(tower)
    model.save_pretrained(tmp_path)
    imported = import_checkpoint(tmp_path / "model.safetensors", clip.visual, "nonlinear")
    assert_tower(imported, clip, finetuned)
    with torch.no_grad():
        torch.testing.assert_close(clip.visual(IMAGES), expected)


# --- Other files, and what is refused ------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "visual.", "module.model.visual."])
def test_named_tensors_are_imported_in_single_precision(clip, finetuned, tmp_path, prefix):
    half = {name: value.half().float() for name, value in finetuned.visual.named_parameters()}
    finetuned.visual.load_state_dict(half)
    save_file({f"{prefix}{name}": value.half() for name, value in half.items()}, tmp_path / "file")
    imported = import_checkpoint(tmp_path / "file", clip.visual, "linear")
    assert {value.dtype for value in imported.values()} == {torch.float32}
    assert_tower(imported, clip, finetuned)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {n: t for n, t in s.items() if n != "proj"}, r"missing proj \[16, 8\]$"),
        (lambda s: s | {"extra": torch.zeros(2)}, r"unknown extra \[2\]$"),
        (lambda s: s | {"proj": torch.zeros(16, 4)}, r"proj: expected shape \[16, 8\], found \[16"),
        (lambda s: s | {"proj": s["proj"] * torch.nan}, r"NaN or infinity in \['proj'\]"),
        (lambda s: {n: 3 * t for n, t in s.items()}, r"found them 2\.\d\d of its norm away"),
        (lambda s: {"head.weight": torch.zeros(2)}, r"missing class_embedding \[16\]"),
    ],
)
def test_a_mismatch_names_tensors_and_shapes(clip, finetuned, tmp_path, change, message):
    state = {name: value.detach() for name, value in finetuned.visual.named_parameters()}
    save_file({name: value.clone() for name, value in change(state).items()}, tmp_path / "file")
    with pytest.raises(PipelineError, match=message):
        import_checkpoint(tmp_path / "file", clip.visual, "nonlinear")


def test_the_encoder_itself_is_no_checkpoint(clip, tmp_path):
    save_file(dict(clip.visual.state_dict()), tmp_path / "file")
    with pytest.raises(PipelineError, match="expected fine-tuned weights, found those of the enco"):
        import_checkpoint(tmp_path / "file", clip.visual, "nonlinear")


# --- The command -------------------------------------------------------------------------------


def test_the_command_writes_a_checkpoint_with_its_record(clip, finetuned, tmp_path):
    encoder, file, output = (tmp_path / name for name in ("encoder", "digits.pt", "checkpoint"))
    preprocess = Preprocess(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    save_encoder(encoder, "tiny", clip, ARCHITECTURE, preprocess)
    torch.save(finetuned.state_dict(), file)
    settings = {"model": "tiny", "task": "digits", "mode": "nonlinear"}
    done = CliRunner().invoke(app, [
        "import", "checkpoint", str(file), "--settings", json.dumps(settings),
        "--encoder", str(encoder), "--output", str(output),
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    tensors, metadata = read_tensors(output, "checkpoint")
    assert_tower(
        {name: tensors[name] for name, _ in clip.visual.named_parameters()}, clip, finetuned
    )
    assert metadata.items() >= {**settings, "imported": "digits.pt"}.items()
    record = read_json(record_path(output))
    assert record["settings"] == settings
    assert [entry["sha256"] for entry in record["inputs"]] == [sha256(encoder), sha256(file)]
