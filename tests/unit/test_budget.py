"""The papers' largest model, in a dry form: its shapes, and the memory that training it takes."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from task_arithmetic.architectures import resolve_architecture
from task_arithmetic.budget import finetuning_memory
from task_arithmetic.cli import app
from task_arithmetic.encoders import build_clip

MEASURED = Path(__file__).parents[2] / "benchmarks" / "results" / "tangent.csv"
GIB = 2**30


@pytest.mark.parametrize(
    ("name", "parameters", "features", "tokens"),
    [
        ("ViT-B-32-quickgelu", 87_849_216, 512, 50),
        ("ViT-B-16-quickgelu", 86_192_640, 512, 197),
        ("ViT-L-14-quickgelu", 303_966_208, 768, 257),
    ],
)
def test_the_papers_towers_have_their_published_shapes(name, parameters, features, tokens):
    with torch.device("meta"):
        tower = build_clip(resolve_architecture(name)).visual
    assert sum(parameter.numel() for parameter in tower.parameters()) == parameters
    assert tower.positional_embedding.shape[0] == tokens
    assert tower(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, features)


def test_the_budget_of_a_small_tower_is_what_autograd_keeps():
    architecture = {
        "embed_dim": 4,
        "vision_cfg": {"image_size": 8, "layers": 1, "width": 8, "head_width": 4, "patch_size": 8},
        "text_cfg": {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1},
    }
    tower, kept = build_clip(architecture).visual, {}
    own = {parameter.data_ptr() for parameter in tower.parameters()}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        tower(torch.zeros(3, 3, 8, 8)).sum().backward()
    expected = sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in own)
    budget = finetuning_memory(architecture, 3)
    assert budget.activations == expected
    assert budget.gradients == sum(p.grad.nbytes for p in tower.parameters()) == budget.parameters


def test_the_budget_of_vit_b_32_is_what_was_measured():
    rows = pd.read_csv(MEASURED)
    step = rows[(rows.model == "ViT-B-32") & (rows.method == "nonlinear")].iloc[0]
    budget = finetuning_memory(resolve_architecture("ViT-B-32"), int(step.batch))
    # The most is alive when the last activation comes: no gradient is there yet.
    assert budget.activations / 2**20 == pytest.approx(step.step_mib, rel=0.05)


def test_vit_l_14_fits_a_gpu_of_40_gib_with_the_papers_accumulation():
    architecture = resolve_architecture("ViT-L-14-quickgelu")
    part = finetuning_memory(architecture, 64, "bf16", "linear")
    assert part.parameters == part.origin == part.gradients == 4 * 303_966_208
    assert part.optimizer == 2 * part.parameters
    assert part.total < 24 * GIB
    whole = finetuning_memory(architecture, 128, "bf16", "linear")
    assert 1.9 < whole.activations / part.activations < 2
    assert finetuning_memory(architecture, 64, "fp32").activations > 1.9 * part.activations


def test_the_command_prints_both_modes():
    arguments = ["memory", "ViT-L-14-quickgelu", "--batch-size", "64", "--precision", "bf16"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.output.splitlines()]
    assert lines[0] == ["GiB", "parameters", "origin", "gradients", "optimizer", "activations",
                        "total"]  # fmt: skip
    assert [line[0] for line in lines[1:]] == ["nonlinear", "linear"]
    assert lines[1][1:] == ["1.13", "0.00", "1.13", "2.26", "15.76", "20.29"]
    assert float(lines[2][-1]) - float(lines[1][-1]) == pytest.approx(1.13, abs=0.01)
