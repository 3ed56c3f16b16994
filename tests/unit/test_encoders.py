"""Encoders and heads: files that come back as they were, and the shipped one."""

import gzip
import json
from pathlib import Path

import pytest
import torch
import yaml

from task_arithmetic.artifacts import PipelineError, read_tensors, write_tensors
from task_arithmetic.encoders import (
    Preprocess,
    build_clip,
    build_tokenizer,
    load_clip,
    load_encoder,
    save_encoder,
    zero_shot_head,
)
from task_arithmetic.pretraining import initial_clip, pretrain, write_merges

ROOT = Path(__file__).parents[2]
TINY = yaml.safe_load((ROOT / "config.yaml").read_text())["models"]["tiny"]
PREPROCESS = Preprocess(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture
def architecture():
    return {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1,
                       "head_width": 8},
        "text_cfg": {**TINY["architecture"]["text_cfg"], "width": 16, "heads": 2, "layers": 1},
    }  # fmt: skip


def test_an_encoder_comes_back_from_its_file(architecture, tmp_path):
    clip, path = build_clip(architecture), tmp_path / "encoder.safetensors"
    save_encoder(path, "tiny", clip, architecture, PREPROCESS)
    images = torch.randn(2, 3, 32, 32)
    encoder = load_encoder(path)
    assert (encoder.model, encoder.preprocess) == ("tiny", PREPROCESS)
    with torch.no_grad():
        torch.testing.assert_close(encoder.tower(images), clip.visual(images))
        loaded, tokenize = load_clip(path)
        tokens = tokenize(["a circle", "one star on paper"])
        torch.testing.assert_close(loaded.encode_text(tokens), clip.encode_text(tokens))


def test_a_head_is_the_normalized_mean_of_normalized_prompts(architecture):
    clip, tokenize = build_clip(architecture), build_tokenizer(architecture)
    head = zero_shot_head(clip, tokenize, ["circle", "star"], ["the figure of a {}", "one {}"])
    prompts = ["the figure of a star", "one star"]
    with torch.no_grad():
        rows = torch.stack([clip.encode_text(tokenize([prompt]))[0] for prompt in prompts])
    mean = (rows / rows.norm(dim=1, keepdim=True)).mean(dim=0)
    torch.testing.assert_close(head[1], 100 * mean / mean.norm())


def test_missing_weights_are_named(architecture, tmp_path):
    source = tmp_path / "encoder.safetensors"
    save_encoder(source, "tiny", build_clip(architecture), architecture, PREPROCESS)
    tensors, metadata = read_tensors(source, "encoder")
    del tensors["visual.proj"]
    write_tensors(source, tensors, metadata)
    with pytest.raises(PipelineError, match=r"does not fit its architecture: .*proj"):
        load_encoder(source)


def test_pretraining_is_deterministic_and_learns(architecture):
    settings = TINY["pretraining"] | {
        "images": 288, "passes": 3, "batch_size": 96, "warmup_steps": 1, "precision": "fp32",
        "learning_rate": 3.0e-3,
    }  # fmt: skip
    losses = []
    first = pretrain(architecture, PREPROCESS, settings, lambda _, loss, clip: losses.append(loss))
    second = pretrain(architecture, PREPROCESS, settings)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert len(losses) == 9
    assert losses[-1] < losses[0]


def test_a_pretraining_that_ends_early_is_the_beginning_of_the_whole(architecture):
    settings = TINY["pretraining"] | {"images": 288, "passes": 1, "batch_size": 96}
    kept = []

    def keep(step, loss, clip):
        if step == 1:
            kept.append({name: value.clone() for name, value in clip.state_dict().items()})

    pretrain(architecture, PREPROCESS, settings, keep)
    early = pretrain(architecture, PREPROCESS, settings, lambda step, loss, clip: step == 1)
    start = initial_clip(architecture, settings["seed"]).state_dict()
    for name, value in early.state_dict().items():
        assert torch.equal(value, kept[0][name])
    assert not torch.equal(start["visual.proj"], kept[0]["visual.proj"])


def test_the_shipped_checkpoints_are_those_of_the_configured_pretraining():
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    steps = [step for step in config["analyses"]["initialization"]["steps"] if step]
    for step in steps:
        tensors, metadata = read_tensors(ROOT / TINY["checkpoints"].format(step=step), "encoder")
        assert json.loads(metadata["architecture"]) == TINY["architecture"]
        assert json.loads(metadata["pretraining"]) == TINY["pretraining"]
        assert metadata["step"] == str(step)
        assert tensors["visual.proj"].dtype == torch.float16


def test_the_shipped_encoder_is_the_configured_one_and_small():
    folder = ROOT / "workflow" / "assets" / "tiny"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10e6
    _, metadata = read_tensors(ROOT / TINY["weights"]["file"], "encoder")
    assert json.loads(metadata["architecture"]) == TINY["architecture"]
    assert json.loads(metadata["pretraining"]) == TINY["pretraining"]
    assert json.loads(metadata["preprocess"]) == TINY["preprocess"]


def test_the_shipped_merges_are_those_of_the_captions(tmp_path):
    size = write_merges(tmp_path / "merges.txt.gz")
    shipped = ROOT / "workflow" / TINY["architecture"]["text_cfg"]["tokenizer_kwargs"]["bpe_path"]
    assert gzip.decompress(shipped.read_bytes()) == gzip.decompress(
        (tmp_path / "merges.txt.gz").read_bytes()
    )
    assert TINY["architecture"]["text_cfg"]["vocab_size"] == size
