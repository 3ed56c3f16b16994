"""A task that names a checkpoint made elsewhere is imported, and never trained."""

import torch

from task_arithmetic.artifacts import read_json, read_tensors
from task_arithmetic.encoders import load_encoder

VECTOR = "results/embedded/vectors/tiny/0/nonlinear/digits.safetensors"


def test_an_imported_checkpoint_stands_in_for_training(new_project, tmp_path):
    project = new_project.copy_to(tmp_path / "project")
    tower = load_encoder(project.root / "workflow/assets/tiny/encoder.safetensors").tower
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter += 1e-3 * torch.randn_like(parameter)
    torch.save({"state_dict": tower.state_dict()}, project.root / "digits.pt")

    def change(config):
        source = {"nonlinear": {"file": "digits.pt"}}
        config["datasets"]["digits"]["checkpoints"] = {"tiny": source}

    project.configure(change)
    planned = project.planned("all_tables")
    assert "importing tiny fine-tuned on digits, nonlinear" in planned
    assert [job for job in planned if job.startswith("fine-tuning")] == [
        "fine-tuning tiny on digits, linear, seed 0",
        "fine-tuning tiny on shapes, linear, seed 0",
        "fine-tuning tiny on shapes, nonlinear, seed 0",
    ]
    done = project.run("--cores", "1", VECTOR)
    assert done.returncode == 0, done.stderr
    tau, metadata = read_tensors(project.root / VECTOR, "task_vector")
    for name, parameter in tower.named_parameters():
        torch.testing.assert_close(tau[name], parameter.detach() - before[name])
    assert metadata["imported"] == "digits.pt"
    record = read_json(project.result("imported/tiny/nonlinear/digits.safetensors.lineage.json"))
    assert [entry["path"] for entry in record["inputs"]] == [
        "results/embedded/encoders/tiny/encoder.safetensors",
        "digits.pt",
    ]


def test_imported_tasks_are_marked_in_the_tables_settings(new_project, tmp_path):
    project = new_project.copy_to(tmp_path / "project")

    def change(config):
        source = {"nonlinear": {"file": "config.yaml"}}
        config["datasets"]["digits"]["checkpoints"] = {"tiny": source}

    project.configure(change)
    done = project.run("--dry-run", "--printshellcmds", "--", "all_tables")
    # What is made of the imported vector is marked: both modes of it.
    marks = '"imported":[["tiny","nonlinear","digits"],["tiny","posthoc","digits"]]'
    assert (done.stdout + done.stderr).count(marks) == 3


def test_weights_and_checkpoints_of_a_hub_are_downloaded_by_rules_of_their_own(
    new_project, tmp_path
):
    project = new_project.copy_to(tmp_path / "project")

    def change(config):
        openai = {"architecture": "ViT-B-32-quickgelu", "weights": {"pretrained": "openai"}}
        config["models"] = {"clip": openai}
        source = {"nonlinear": {"hub": "someone/digits", "file": "model.safetensors"}}
        config["datasets"]["digits"]["checkpoints"] = {"clip": source}

    project.configure(change)
    planned = project.planned("results/embedded/vectors/clip/0/nonlinear/digits.safetensors")
    assert planned == [
        "downloading clip fine-tuned on digits, nonlinear",
        "downloading the weights of clip",
        "encoder clip",
        "importing clip fine-tuned on digits, nonlinear",
        "task vector of digits, nonlinear, seed 0",
    ]


def test_random_weights_need_no_file(new_project, tmp_path):
    project = new_project.copy_to(tmp_path / "project")
    project.configure(lambda c: c["models"]["tiny"].update(weights={"random_init": 3}))
    encoder = "results/embedded/encoders/tiny/encoder.safetensors"
    assert project.planned(encoder) == ["encoder tiny"]
    done = project.run("--dry-run", "--printshellcmds", "--", encoder)
    assert "--source '' --description ''" in done.stdout + done.stderr
    assert '"random_init":3' in done.stdout + done.stderr
