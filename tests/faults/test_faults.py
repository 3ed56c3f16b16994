"""Faults in real steps: the error is clear, nothing partial stays, a rerun completes.

Every test starts from a finished project, so finished work that must be kept is there to be lost.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from task_arithmetic.artifacts import read_json, sha256
from task_arithmetic.lineage import record_path

CHECKPOINT = "checkpoints/tiny/0/{mode}/digits.safetensors"


def leftovers(project):
    """Return temporary and resumable files below the results."""
    names = (path for path in project.result("").rglob("*") if path.is_file())
    return [path.name for path in names if path.name.startswith(".") or ".resume." in path.name]


def recorded_command(project, artifact):
    """Return the command that made an artifact."""
    return shlex.split(read_json(record_path(project.result(artifact)))["command"])


@pytest.mark.parametrize("mode", ["nonlinear", "linear"])
def test_a_killed_training_resumes_to_the_same_bits(project, mode):
    artifact = CHECKPOINT.format(mode=mode)
    project.configure(lambda config: config["finetuning"].update(steps=30, checkpoint_every=3))
    target = project.result(artifact)
    assert project.run("--cores", "1", target.relative_to(project.root)).returncode == 0
    expected = sha256(target)
    log = target.with_suffix(".csv").read_text()
    command = recorded_command(project, artifact)
    target.unlink()

    resume = target.with_suffix(".resume.safetensors")
    running = subprocess.Popen(
        command,
        cwd=project.root,
        env={**os.environ, "PYTHONPATH": str(project.root / "workflow")},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not resume.exists() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert running.returncode == -signal.SIGKILL
    assert resume.exists()
    assert not target.exists()

    done = project.run(*command[1:], command=command[0])
    assert done.returncode == 0, done.stderr
    assert (
        "resuming after step"
        in project.result(f"logs/finetune/tiny/0/{mode}/digits.log").read_text()
    )
    assert sha256(target) == expected
    assert target.with_suffix(".csv").read_text() == log
    assert leftovers(project) == []


@pytest.mark.parametrize(
    ("damaged", "damage"),
    [
        ("vectors/tiny/0/nonlinear/digits.safetensors", "truncated"),
        ("datasets/digits/test.parquet", "flipped"),
    ],
)
def test_a_damaged_input_stops_the_step_and_is_made_again(project, damaged, damage):
    consumer = "edits/tiny/0/nonlinear/single-digits/accuracy.csv"
    path, target = project.result(damaged), project.result(consumer)
    name, original, finished = path.relative_to(project.root), sha256(path), sha256(target)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    else:
        content[-1000] ^= 0x10
    path.write_bytes(content)

    failed = project.run("--cores", "2", target.relative_to(project.root))
    assert failed.returncode == 1
    assert f"{name}: damaged or modified since it was made" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert project.result("tables/single_task.csv").exists()
    assert leftovers(project) == []

    path.unlink()
    done = project.run("--cores", "2", target.relative_to(project.root))
    assert done.returncode == 0, done.stderr
    assert (sha256(path), sha256(target)) == (original, finished)
    assert project.planned("all") == []


def test_a_disk_without_room_names_the_file_and_leaves_none(project):
    artifact = CHECKPOINT.format(mode="linear")
    target = project.result(artifact)
    command = recorded_command(project, artifact)
    target.unlink()
    others = {path: sha256(path) for path in target.parent.glob("*.safetensors")}
    # A limit on file sizes makes writes fail in the middle of a file, as a full disk does.
    limited = f"ulimit -f 100; exec {shlex.join(command)}"
    failed = project.run("-c", limited, command="bash")
    assert failed.returncode == 1
    # The first file that does not fit is the resumable state of the same training.
    assert re.search(r"linear/digits\.\S*safetensors: could not be written", failed.stderr)
    assert not target.exists()
    assert all(sha256(path) == content for path, content in others.items())
    assert [name for name in leftovers(project) if not name.endswith(".resume.safetensors")] == []
    done = project.run("--cores", "1", target.relative_to(project.root))
    assert done.returncode == 0, done.stderr
    assert target.exists()


def test_a_diverging_training_names_its_step_and_the_others_finish(project):
    project.configure(
        lambda config: config["datasets"]["digits"].update(finetuning={"learning_rate": 1e25})
    )
    project.configure(lambda config: config["finetuning"].update(weight_decay=0.0))
    diverging, other = (
        project.result(f"checkpoints/tiny/0/nonlinear/{task}.safetensors")
        for task in ("digits", "shapes")
    )
    targets = [path.relative_to(project.root) for path in (diverging, other)]
    before = sha256(other)
    failed = project.run("--cores", "1", *targets)
    assert failed.returncode == 1
    assert (
        "nonlinear digits: expected a finite loss, found nan at step"
        in failed.stdout + failed.stderr
    )
    assert not diverging.exists()
    assert sha256(other) != before

    project.configure(lambda config: config["datasets"]["digits"].pop("finetuning"))
    done = project.run("--cores", "1", *targets)
    assert done.returncode == 0, done.stderr
    assert project.planned(*targets) == []


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"train": {"cat": 20}, "test": {"cat": 2, "cow": 2}}, "classes ['cow'] in"),
        ({"train": {"cat": 20}, "test": {"cat": 0}}, "(test): expected at least one example"),
        ({"train": {"cat": 20}, "test": {}}, "found no class folder"),
        ({"train": {"cat": 3}, "test": {"cat": 2}}, "(validation): expected at least one example"),
        ({"train": {}, "test": {}}, "found no class folder"),
    ],
)
def test_unusable_images_are_named_and_the_other_datasets_stay(project, images, message):
    for split, classes in images.items():
        for name, count in classes.items():
            folder = project.root / "pets" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (32, 32), (index, 0, 0)).save(folder / f"{index}.png")

    def add_pets(config):
        config["datasets"]["pets"] = {"source": {"folder": "pets"}, "templates": ["a {}"]}
        config["tasks"].append("pets")

    project.configure(add_pets)
    failed = project.run("--cores", "1", "results/embedded/datasets/pets/train.parquet")
    assert failed.returncode == 1
    assert message in failed.stdout + failed.stderr
    assert "pets" in failed.stdout + failed.stderr
    assert list(project.result("datasets/pets").glob("*.parquet")) == []
    assert project.result("datasets/digits/train.parquet").exists()
    assert leftovers(project) == []


def test_light_steps_never_import_torch(finished_project):
    program = (
        "import sys\n"
        "from task_arithmetic.cli import main\n"
        "sys.argv = sys.argv[1:]\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    light = [
        "datasets/digits/test.parquet",
        "edits/tiny/0/linear/all/validation.csv",
        "edits/tiny/0/linear/all/selection.csv",
        "edits/tiny/0/posthoc/all/test.csv",
        "tables/task_addition.csv",
        "figures/addition_curves.png",
    ]
    for artifact in light:
        command = recorded_command(finished_project, artifact)
        done = finished_project.run("-c", program, *command, command=sys.executable)
        assert done.returncode == 0, f"{artifact}: {done.stderr}"


def test_a_wrong_settings_object_is_a_usage_error(new_project):
    done = new_project.run(
        "select", "--settings", "[1]", "--curve", "x", "--output", "y", command="task-arithmetic"
    )
    assert done.returncode == 2
    assert "expected a JSON object" in done.stderr
    assert not Path(new_project.root / "y").exists()
