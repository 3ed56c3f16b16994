"""Where θ0 comes from: files, tags, hubs, random; what does not fit is refused by name."""

import json
import subprocess
import sys

import pytest
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from safetensors.torch import save_file
from transformers_state import clip_state

from task_arithmetic import weights
from task_arithmetic.architectures import (
    architecture_files,
    default_preprocess,
    resolve_architecture,
)
from task_arithmetic.artifacts import (
    PipelineError,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from task_arithmetic.encoders import Preprocess, build_clip, load_clip, load_encoder, save_encoder
from task_arithmetic.weights import adopt_encoder, download_weights

PREPROCESS = Preprocess(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 2, "head_width": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1},
}
QUICK = {**ARCHITECTURE, "quick_gelu": True}


@pytest.fixture
def source(tmp_path):
    """Return an encoder file."""
    path = tmp_path / "source.safetensors"
    save_encoder(path, "tiny", build_clip(ARCHITECTURE), ARCHITECTURE, PREPROCESS)
    return path


@pytest.fixture
def output(tmp_path):
    return tmp_path / "encoder.safetensors"


class Hub:
    """Stands for the hub: repositories are dictionaries of files, and every call is recorded."""

    def __init__(self, files):
        self.files, self.calls = files, []

    def fetch_file(self, repo, filename, revision, repo_type, folder):
        self.calls.append((repo, filename, revision, repo_type))
        if filename not in self.files:
            raise PipelineError(f"{repo} has no {filename}")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / filename
        path.write_bytes(self.files[filename])
        return path


@pytest.fixture
def hub_of(monkeypatch):
    def make(**files):
        hub = Hub({name.replace("__", "."): content for name, content in files.items()})
        monkeypatch.setitem(sys.modules, "task_arithmetic.hub", hub)
        monkeypatch.setattr("task_arithmetic.hub", hub, raising=False)
        return hub

    return make


# --- Our own files -----------------------------------------------------------------------------


def test_half_precision_weights_are_adopted_in_single_precision(source, output):
    save_encoder(source, "tiny", build_clip(ARCHITECTURE).half(), ARCHITECTURE, PREPROCESS)
    adopt_encoder(output, "tiny", ARCHITECTURE, source)
    half, _ = read_tensors(source, "encoder")
    adopted, _ = read_tensors(output, "encoder")
    assert {tensor.dtype for tensor in adopted.values()} == {torch.float32}
    assert all(torch.equal(adopted[name], half[name].float()) for name in half)
    assert load_encoder(output).preprocess == PREPROCESS


def test_weights_of_another_architecture_are_refused(source, output):
    other = {**ARCHITECTURE, "embed_dim": 8}
    with pytest.raises(PipelineError, match="expected the configured architecture of tiny"):
        adopt_encoder(output, "tiny", other, source)


def test_broken_weights_are_named(source, output):
    tensors, metadata = read_tensors(source, "encoder")
    write_tensors(source, tensors | {"visual.proj": tensors["visual.proj"] * torch.nan}, metadata)
    with pytest.raises(PipelineError, match=r"found NaN or infinity in \['visual.proj'\]"):
        adopt_encoder(output, "tiny", ARCHITECTURE, source)


def test_another_preprocessing_than_the_files_is_refused(source, output):
    with pytest.raises(PipelineError, match=r"tiny, mean \(0.0, 0.0, 0.0\), found \(0.5, 0.5"):
        adopt_encoder(output, "tiny", ARCHITECTURE, source, preprocess={"mean": [0.0, 0.0, 0.0]})


# --- Files of others ---------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("form", ["safetensors", "torch", "legacy", "wrapped"])
def test_open_clip_weights_give_the_same_outputs(tmp_path, output, form, prefix):
    clip, path = build_clip(ARCHITECTURE), tmp_path / "weights"
    state = {f"{prefix}{name}": tensor for name, tensor in clip.state_dict().items()}
    if form == "safetensors":
        save_file(state, path)
    else:
        value = {"epoch": 3, "state_dict": state} if form == "wrapped" else state
        torch.save(value, path, _use_new_zipfile_serialization=form != "legacy")
    adopt_encoder(output, "tiny", ARCHITECTURE, path)
    loaded, _ = load_clip(output)
    images, tokens = torch.randn(2, 3, 32, 32), torch.randint(50, (2, 12))
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode_image(images), clip.encode_image(images))
        torch.testing.assert_close(loaded.encode_text(tokens), clip.encode_text(tokens))
    assert load_encoder(output).preprocess == Preprocess.of(default_preprocess(ARCHITECTURE))


def test_a_whole_model_with_the_names_of_transformers_is_adopted(tmp_path, output):
    clip, path = build_clip(ARCHITECTURE), tmp_path / "weights"
    save_file(clip_state(clip), path)
    adopt_encoder(output, "tiny", ARCHITECTURE, path)
    adopted, _ = read_tensors(output, "encoder")
    assert set(adopted) == set(clip.state_dict())
    assert all(torch.equal(adopted[name], value) for name, value in clip.state_dict().items())


def test_a_whole_model_of_transformers_gives_the_same_outputs(tmp_path, output):
    transformers = pytest.importorskip("transformers")
    sizes = {"intermediate_size": 64, "hidden_size": 16, "num_attention_heads": 2,
             "hidden_act": "quick_gelu"}  # fmt: skip
    options = transformers.CLIPConfig(
        vision_config={**sizes, "num_hidden_layers": 2, "image_size": 32, "patch_size": 16},
        text_config={**sizes, "num_hidden_layers": 1, "vocab_size": 50, "eos_token_id": 49,
                     "max_position_embeddings": 12},
        projection_dim=16,
    )  # fmt: skip
    model = transformers.CLIPModel(options).eval()
    model.save_pretrained(tmp_path)
    adopt_encoder(output, "tiny", QUICK, tmp_path / "model.safetensors")
    loaded, _ = load_clip(output)
    images, tokens = torch.randn(2, 3, 32, 32), torch.randint(49, (2, 12))
    tokens[:, -1] = 49  # both take the features of the end of the text
    with torch.no_grad():
        expected = model(pixel_values=images, input_ids=tokens)
        features = loaded.encode_image(images, normalize=True)
        torch.testing.assert_close(features, expected.image_embeds)
        features = loaded.encode_text(tokens, normalize=True)
        torch.testing.assert_close(features, expected.text_embeds)


def test_the_text_tower_of_its_own_takes_the_old_names(tmp_path, output):
    clip, path = build_clip(ARCHITECTURE), tmp_path / "weights.safetensors"
    save_file(clip.state_dict(), path)
    adopt_encoder(output, "tiny", {**ARCHITECTURE, "custom_text": True}, path)
    loaded, _ = load_clip(output)
    tokens = torch.randint(50, (2, 12))
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode_text(tokens), clip.encode_text(tokens))


def test_weights_of_another_shape_are_named_with_both_shapes(tmp_path, output):
    clip, path = build_clip({**ARCHITECTURE, "embed_dim": 8}), tmp_path / "weights.safetensors"
    save_file(clip.state_dict(), path)
    with pytest.raises(PipelineError, match=r"visual.proj: .*\[16, 8\].*\[16, 16\]"):
        adopt_encoder(output, "tiny", ARCHITECTURE, path)


# --- QuickGELU ---------------------------------------------------------------------------------


def test_openai_weights_need_quickgelu_and_say_so(tmp_path, output):
    path, clip = tmp_path / "openai.pt", build_clip(QUICK)
    marks = {"input_resolution": 32, "context_length": 12, "vocab_size": 50}
    marks = {name: torch.tensor(value) for name, value in marks.items()}
    torch.save({**clip.half().state_dict(), **marks}, path)
    with pytest.raises(PipelineError, match=r"OpenAI's, were trained with QuickGELU, but .* GELU"):
        adopt_encoder(output, "tiny", ARCHITECTURE, path)
    adopt_encoder(output, "tiny", QUICK, path)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = clip.float().encode_image(images)
        torch.testing.assert_close(load_encoder(output).tower(images), expected)


def test_an_encoder_file_remembers_its_activation(source, output):
    with pytest.raises(PipelineError, match=r"were trained with GELU, but .* has QuickGELU; set"):
        adopt_encoder(output, "tiny", QUICK, source)


@pytest.mark.parametrize(
    ("architecture", "tag", "advice"),
    [
        ("ViT-B-32", "openai", "'openai' were trained with QuickGELU, but the architecture "
         "ViT-B-32 has GELU; use ViT-B-32-quickgelu"),
        ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", "'laion2b_s34b_b79k' were trained with GELU, "
         "but the architecture ViT-B-32-quickgelu has QuickGELU; use ViT-B-32"),
    ],
)  # fmt: skip
def test_a_tag_of_the_wrong_activation_downloads_nothing(
    hub_of, tmp_path, architecture, tag, advice
):
    hub = hub_of(open_clip_model__safetensors=b"weights")
    with pytest.raises(PipelineError, match=advice):
        download_weights({"pretrained": tag}, architecture, tmp_path / "w", tmp_path / "d.json")
    assert hub.calls == []


def test_every_tag_of_the_papers_pairs_with_quickgelu_only():
    for base in ("ViT-B-32", "ViT-B-16", "ViT-L-14"):
        assert weights._tag(f"{base}-quickgelu", "openai")["quick_gelu"]
        with pytest.raises(PipelineError, match=f"use {base}-quickgelu"):
            weights._tag(base, "openai")


# --- Downloads ---------------------------------------------------------------------------------


def test_a_tag_is_downloaded_and_described(hub_of, tmp_path):
    hub, output = hub_of(open_clip_pytorch_model__bin=b"weights"), tmp_path / "encoder.weights"
    download_weights({"pretrained": "openai"}, "ViT-L-14-quickgelu", output, tmp_path / "d.json")
    repository = "timm/vit_large_patch14_clip_224.openai"
    assert hub.calls == [
        (repository, name, "main", "model")
        for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    ]
    assert output.read_bytes() == b"weights"
    assert read_json(tmp_path / "d.json") == {
        "source": f"{repository}@main",
        "quick_gelu": True,
        "preprocess": {
            "mean": list(OPENAI_DATASET_MEAN),
            "std": list(OPENAI_DATASET_STD),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.json", "encoder.weights"]


def test_an_unknown_tag_lists_the_known_ones(hub_of, tmp_path):
    hub_of()
    with pytest.raises(PipelineError, match=r"tags for ViT-B-16 \(.*openai.*\), found 'opanai'"):
        download_weights({"pretrained": "opanai"}, "ViT-B-16", tmp_path / "w")


def test_a_hub_repository_states_activation_and_preprocessing(hub_of, tmp_path, output):
    clip, file = build_clip(QUICK), tmp_path / "file"
    save_file(clip.state_dict(), file)
    stated = {
        "model_cfg": QUICK,
        "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "interpolation": "bicubic"},
    }
    hub = hub_of(
        w__safetensors=file.read_bytes(), open_clip_config__json=json.dumps(stated).encode()
    )
    source = {"hub": "someone/clip", "revision": "abc", "file": "w.safetensors"}
    with pytest.raises(PipelineError, match="someone/clip were trained with QuickGELU"):
        download_weights(source, ARCHITECTURE, tmp_path / "w", tmp_path / "d.json")
    download_weights(source, QUICK, tmp_path / "w", tmp_path / "d.json")
    assert hub.calls[-1] == ("someone/clip", "w.safetensors", "abc", "model")
    adopt_encoder(output, "tiny", QUICK, tmp_path / "w", tmp_path / "d.json", {"std": [2, 2, 2]})
    assert load_encoder(output).preprocess == Preprocess(
        32, (0.1, 0.2, 0.3), (2, 2, 2), "bicubic", "shortest"
    )
    with pytest.raises(PipelineError, match=r"were trained with QuickGELU, but .* has GELU"):
        adopt_encoder(output, "tiny", ARCHITECTURE, tmp_path / "w", tmp_path / "d.json")


@pytest.mark.parametrize(
    ("stated", "known"),
    [
        ({"config__json": b'{"vision_config": {"hidden_act": "gelu"}}'}, False),
        ({"config__json": b'{"hidden_act": "quick_gelu"}'}, True),
        ({}, None),
    ],
)
def test_what_a_repository_does_not_state_is_not_guessed(hub_of, tmp_path, stated, known):
    hub_of(model__safetensors=b"weights", **stated)
    source = {"hub": "someone/clip", "file": "model.safetensors"}
    architecture = QUICK if known else ARCHITECTURE
    download_weights(source, architecture, tmp_path / "w", tmp_path / "d.json")
    assert read_json(tmp_path / "d.json") == {
        "source": "someone/clip@main",
        "quick_gelu": known,
        "preprocess": {},
    }


def test_a_preprocessing_that_the_project_has_not_is_refused(tmp_path, output):
    known = {"quick_gelu": False, "preprocess": {"resize_mode": "squash"}}
    write_json(tmp_path / "d.json", known)
    with pytest.raises(PipelineError, match=r"resize_mode 'shortest' .*, found 'squash'"):
        adopt_encoder(output, "tiny", ARCHITECTURE, description=tmp_path / "d.json")


# --- Random weights ----------------------------------------------------------------------------


def test_random_weights_depend_on_their_seed_alone(tmp_path):
    states = []
    for place, seed in enumerate((0, 0, 1)):
        torch.manual_seed(place)
        before = torch.random.get_rng_state()
        path = tmp_path / f"{place}.safetensors"
        adopt_encoder(path, "tiny", ARCHITECTURE, random_init=seed)
        assert torch.equal(torch.random.get_rng_state(), before)
        states.append(read_tensors(path, "encoder")[0])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["visual.proj"], states[2]["visual.proj"])


def test_a_random_image_tower_keeps_the_text_tower(source, output):
    adopt_encoder(output, "tiny", ARCHITECTURE, source, random_init=7)
    pretrained, _ = read_tensors(source, "encoder")
    mixed, metadata = read_tensors(output, "encoder")
    assert torch.equal(mixed["text_projection"], pretrained["text_projection"])
    assert not torch.equal(mixed["visual.proj"], pretrained["visual.proj"])
    assert metadata["random_init"] == "7"


# --- Architectures -----------------------------------------------------------------------------


def test_an_architecture_by_name_is_open_clips(output):
    assert resolve_architecture("ViT-B-32-quickgelu")["quick_gelu"] is True
    assert resolve_architecture("ViT-L-14")["vision_cfg"]["width"] == 1024
    assert default_preprocess(resolve_architecture("ViT-L-14-336"))["size"] == 336
    with pytest.raises(PipelineError, match="found 'ViT-B-23'; did you mean ViT-B-32"):
        resolve_architecture("ViT-B-23")
    with pytest.raises(PipelineError, match="coca_base has a caption decoder"):
        resolve_architecture("coca_base")


def test_the_default_preprocessing_is_open_clips():
    preprocess = default_preprocess(resolve_architecture("ViT-B-32"))
    assert tuple(preprocess["mean"]) == OPENAI_DATASET_MEAN
    assert tuple(preprocess["std"]) == OPENAI_DATASET_STD


def test_architectures_are_found_without_importing_open_clip():
    code = (
        "import sys; from task_arithmetic.architectures import resolve_architecture as r;"
        "r('ViT-B-32'); assert not {'torch', 'open_clip'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(architecture_files()) > 50
