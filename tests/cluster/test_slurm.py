"""The experiment on a real SLURM, through the profile that users take, left alone and disturbed."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from slurm import missing, run, slurm, wait_until

from task_arithmetic.artifacts import sha256

pytestmark = pytest.mark.slurm
CHECKPOINT = "results/embedded/checkpoints/tiny/0/nonlinear/{}.safetensors"
LOG = "results/embedded/logs/finetune/tiny/0/nonlinear/{}.log"
# Two jobs at a time, polled often, with one thread each as in a local run.
OPTIONS = (
    "--profile", "slurm", "--configfile", "config.yaml", "--jobs", "2",
    "--set-threads", "finetune=1", "--slurm-init-seconds-before-status-checks", "3",
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster():
    """Return a running SLURM; without one these tests, which run on request only, fail."""
    if missing():
        pytest.fail(f"no SLURM can be started here: {missing()}")
    # Not pytest's folder: paths of sockets must be short.
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, slurm(Path(folder)) as running:
        yield running


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Keep the cache between workflows out of the user's folder."""
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(tmp_path / "cache"))


def lengthen(project, task="digits", **changes):
    """Give a task a training long enough to disturb."""
    changes = {"steps": 300, "checkpoint_every": 20, **changes}
    project.configure(lambda config: config["datasets"][task].update(finetuning=changes))


@pytest.fixture(scope="module")
def undisturbed(finished_project, tmp_path_factory):
    """Return the digest of the lengthened checkpoint of a local training that nothing disturbs."""
    project = finished_project.copy_to(tmp_path_factory.mktemp("undisturbed") / "project")
    lengthen(project)
    target = CHECKPOINT.format("digits")
    done = project.run("--cores", "1", target)
    assert done.returncode == 0, done.stderr
    return sha256(project.root / target)


def start(project, *arguments):
    """Start a run on the cluster."""
    return subprocess.Popen(
        ["snakemake", *OPTIONS, *arguments],
        cwd=project.root,
        env={**os.environ, "PYTHONPATH": str(project.root / "workflow"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(running):
    """Wait for a run to succeed and return what it printed."""
    printed, _ = running.communicate(timeout=300)
    assert running.returncode == 0, printed
    return printed


def stop(running):
    """End a run as Ctrl-C does, which cancels its jobs."""
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=120)


def training(project, task="digits"):
    """Wait until a training makes progress."""
    log = project.root / LOG.format(task)
    wait_until(lambda: log.exists() and "steps, " in log.read_text(), f"progress in {log}")


def resumed_after(project, task="digits"):
    """Return the step after which the last attempt of a training went on; None if it did not."""
    log = project.root / LOG.format(task)
    found = re.search(r"resuming after step (\d+)", log.read_text()) if log.exists() else None
    return int(found[1]) if found else None


def forget_log(project, task="digits"):
    """Remove the log of the training that the finished project had."""
    (project.root / LOG.format(task)).unlink()


def test_the_experiment_through_the_profile_gives_the_tables_of_a_local_run(
    cluster, new_project, finished_project, tmp_path
):
    project = new_project.copy_to(tmp_path / "project")
    finish(start(project, "all_tables"))
    for name in ("single_task", "task_addition", "task_negation"):
        found = project.result(f"tables/{name}.csv").read_bytes()
        assert found == finished_project.result(f"tables/{name}.csv").read_bytes(), name
    # Trainings and network evaluations ask for a GPU, the making of data for none, and small steps
    # are no jobs of the cluster at all.
    rules = {job["Comment"].removeprefix("rule_").split("_wildcards")[0] for job in cluster.jobs()}
    assert {"dataset", "head", "encoder", "finetune", "features", "nonlinear_curve"} == rules
    for rule in ("finetune", "features", "nonlinear_curve"):
        assert {job.get("TresPerJob") for job in cluster.jobs_of(rule)} == {"gres:gpu:1"}
    for rule in ("dataset", "head", "encoder"):
        assert {job.get("TresPerJob") for job in cluster.jobs_of(rule)} == {None}
    assert {job["JobState"] for job in cluster.jobs()} == {"COMPLETED"}


def test_a_cancelled_training_saves_and_its_next_attempt_goes_on(cluster, project, undisturbed):
    # No state is saved but the one of the signal.
    lengthen(project, checkpoint_every=20)
    forget_log(project)
    before = cluster.last()
    running = start(project, CHECKPOINT.format("digits"))
    job = cluster.running("finetune", before)
    training(project)
    run("scancel", job)
    finish(running)
    assert [j["JobState"] for j in cluster.jobs_of("finetune", before)] == [
        "CANCELLED",
        "COMPLETED",
    ]
    assert resumed_after(project) > 0
    assert sha256(project.root / CHECKPOINT.format("digits")) == undisturbed


def test_a_training_at_its_time_limit_saves_and_is_given_more_time(cluster, project):
    lengthen(project, steps=100000, checkpoint_every=100000)
    forget_log(project)
    before = cluster.last()
    running = start(
        project, CHECKPOINT.format("digits"), "--set-resources", "finetune:runtime=1*attempt"
    )

    def second():
        jobs = cluster.jobs_of("finetune", before)
        return jobs[1] if len(jobs) > 1 and resumed_after(project) else None

    job = wait_until(second, "a second attempt that goes on", seconds=240)
    assert cluster.jobs_of("finetune", before)[0]["JobState"] == "TIMEOUT"
    assert job["TimeLimit"] == "00:02:00"
    stop(running)


# Allocates memory inside a training when a file appears, once.
HOG = """
import pathlib, sys, threading, time

def hog(trigger=pathlib.Path("hog")):
    while not trigger.exists():
        time.sleep(0.2)
    trigger.unlink()
    global kept
    kept = b"x" * (6 << 30)
    time.sleep(60)

if "finetune" in sys.argv:
    threading.Thread(target=hog, daemon=True).start()
"""


def test_a_training_killed_for_its_memory_goes_on_with_more(cluster, project, undisturbed):
    lengthen(project)
    forget_log(project)
    (project.root / "workflow" / "sitecustomize.py").write_text(HOG)
    before = cluster.last()
    running = start(
        project, CHECKPOINT.format("digits"), "--set-resources", "finetune:mem_mb=4000*attempt"
    )
    resume = (project.root / CHECKPOINT.format("digits")).with_suffix(".resume.safetensors")
    wait_until(resume.exists, "a saved state")
    (project.root / "hog").touch()
    finish(running)
    first, second = cluster.jobs_of("finetune", before)
    assert (first["JobState"], second["JobState"]) == ("FAILED", "COMPLETED")
    assert "mem=8000M" in second["TRES"].replace("7.81G", "8000M")
    assert resumed_after(project) >= 20
    assert sha256(project.root / CHECKPOINT.format("digits")) == undisturbed


def test_a_training_whose_node_goes_down_is_queued_again_and_goes_on(cluster, project, undisturbed):
    lengthen(project)
    forget_log(project)
    before = cluster.last()
    running = start(project, CHECKPOINT.format("digits"))
    resume = (project.root / CHECKPOINT.format("digits")).with_suffix(".resume.safetensors")
    wait_until(resume.exists, "a saved state")
    cluster.set_node("DOWN")
    cluster.set_node("RESUME")
    finish(running)
    (job,) = cluster.jobs_of("finetune", before)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1")
    assert resumed_after(project) >= 20
    assert sha256(project.root / CHECKPOINT.format("digits")) == undisturbed


def test_after_a_killed_main_process_nothing_is_computed_twice(cluster, project, undisturbed):
    lengthen(project)
    lengthen(project, "shapes", steps=5)
    targets = [CHECKPOINT.format(task) for task in ("digits", "shapes")]
    quick = project.root / targets[1]
    # As in a first run: nothing is there, and nothing is known of it.
    for target in targets:
        for path in (project.root / target).parent.glob(f"{Path(target).stem}.*"):
            path.unlink()
    shutil.rmtree(project.root / ".snakemake" / "metadata")
    forget_log(project)
    before = cluster.last()
    running = start(project, *targets)
    training(project)
    # The quick one is an orphan that finishes, the other one is cancelled while it runs.
    running.send_signal(signal.SIGKILL)
    running.communicate()
    wait_until(
        lambda: "COMPLETED" in [j["JobState"] for j in cluster.jobs_of("finetune", before)],
        "the orphan to finish",
    )
    made = quick.stat().st_mtime_ns
    name = cluster.jobs_of("finetune", before)[0]["JobName"]
    run("scancel", f"--name={name}")
    wait_until(
        lambda: all(j["JobState"] != "RUNNING" for j in cluster.jobs_of("finetune", before)),
        "the orphans to end",
    )
    assert "locked" in start(project, *targets).communicate()[0].lower()
    assert project.run(*OPTIONS, "--unlock").returncode == 0
    recovered = cluster.last()
    finish(start(project, *targets))
    (job,) = cluster.jobs_of("finetune", recovered)
    assert "digits" in job["Comment"]
    assert quick.stat().st_mtime_ns == made
    assert resumed_after(project) > 0
    assert sha256(project.root / targets[0]) == undisturbed
