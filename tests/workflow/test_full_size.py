"""A real ViT-B/32 goes through the rules as they are; only the number of steps is small."""

import numpy as np
from PIL import Image
from projects import make_project

from task_arithmetic.architectures import resolve_architecture
from task_arithmetic.artifacts import read_csv, read_tensors

MODES = ("nonlinear", "linear")


def write_images(folder, size=224):
    """Write a folder data set of photographs' size: two classes of noise around two colours."""
    random = np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 2)):
        for name, colour in (("dark", 60), ("bright", 190)):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = random.normal(colour, 30, (size, size, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")


def test_vit_b_32_is_fine_tuned_in_both_modes_by_the_rule(tmp_path):
    project = make_project(tmp_path / "project")
    write_images(project.root / "images")
    # The image tower is the papers' own. A text tower of one narrow layer saves the test a minute.
    architecture = resolve_architecture("ViT-B-32-quickgelu")
    architecture["text_cfg"] |= {"width": 64, "heads": 1, "layers": 1}

    def change(config):
        config["models"] = {
            "vit-b-32": {"architecture": architecture, "weights": {"random_init": 0}}
        }
        source = {"source": {"folder": "images"}, "templates": ["a {} image"]}
        config["datasets"]["digits"] = source
        config["finetuning"] |= {
            "steps": 2, "warmup_steps": 1, "batch_size": 2, "learning_rate": 1.0e-5,
        }  # fmt: skip

    project.configure(change)
    folder = "results/embedded/checkpoints/vit-b-32/0"
    targets = [f"{folder}/{mode}/digits.safetensors" for mode in MODES]
    done = project.run("--cores", "1", *targets)
    assert done.returncode == 0, done.stdout + done.stderr
    encoder, _ = read_tensors(
        project.result("encoders/vit-b-32/encoder.safetensors"), "encoder", prefix="visual."
    )
    for target in targets:
        checkpoint, _ = read_tensors(project.root / target, "checkpoint")
        # The published tower of ViT-B/32.
        assert sum(tensor.numel() for tensor in checkpoint.values()) == 87_849_216
        assert {name: tensor.shape for name, tensor in checkpoint.items()} == {
            name: encoder[name].shape for name in checkpoint
        }
        moved = (checkpoint["conv1.weight"] - encoder["conv1.weight"]).abs().max()
        assert 0 < moved < 1e-4
        log = read_csv((project.root / target).with_suffix(".csv"))
        assert log["step"].tolist() == [1, 2]
        assert np.isfinite(log[["loss", "gradient_norm"]].to_numpy()).all()
    # Both modes start from the same function, so their first losses agree.
    first = [read_csv((project.root / target).with_suffix(".csv"))["loss"][0] for target in targets]
    np.testing.assert_allclose(*first, rtol=1e-4)
