"""The plan of the papers' experiment: how many jobs, how they grow, and how long planning takes."""

import re
import resource

import pytest
import yaml


def processor_seconds():
    """Return what this process's children have used: unlike the clock, not what others use."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def planned(project, config, target="all_tables"):
    """Return the number of jobs by rule and the processor seconds that planning took."""
    (project.root / "plan.yaml").write_text(yaml.safe_dump(config))
    before = processor_seconds()
    done = project.run("--dry-run", "--configfile", "plan.yaml", "--", target)
    seconds = processor_seconds() - before
    assert done.returncode == 0, done.stderr[-2000:]
    stats = (done.stdout + done.stderr).partition("Job stats:")[2].partition("\n\n")[0]
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", stats, re.M)}, seconds


def expected_jobs(tasks, models, seeds):
    """Return the number of jobs by rule: what grows with what."""
    runs, datasets = models * seeds, tasks + 1
    edits = tasks + 1
    return {
        "download": datasets,
        "download_weights": models,
        "dataset": datasets,
        "encoder": models,
        "head": models * datasets,
        "finetune": runs * tasks * 2,
        "vector": runs * tasks * 2,
        "features": runs * datasets,
        # Each edit's validation and test curve, and each single task's accuracy.
        "nonlinear_curve": runs * (2 * edits + tasks),
        "tangent_curve": runs * 2 * 3,
        "selection": runs * (edits + 2),
        "single_task": 1,
        "task_addition": 1,
        "task_negation": 1,
        "all_tables": 1,
    }


@pytest.fixture
def clip(new_project, tmp_path):
    """Return a project and the papers' configuration."""
    project = new_project.copy_to(tmp_path / "project")
    config = yaml.safe_load((project.root / "config" / "clip.yaml").read_text())
    return project, config


def test_the_whole_experiment_is_planned_in_half_a_minute(clip):
    jobs, seconds = planned(*clip)
    assert jobs.pop("total") == 811
    assert jobs == expected_jobs(tasks=8, models=3, seeds=3)
    assert seconds < 30


def test_another_seed_and_fewer_models_and_tasks_change_the_plan_in_proportion(clip):
    project, config = clip
    config["seeds"] = [0, 1, 2, 3]
    config["models"].pop("ViT-L-14")
    config["tasks"].remove("sun397")
    # They name some tasks, and the tables do not need them.
    config.pop("analyses")
    for value in config["expected"]["values"]:
        value["percent"].pop("ViT-L-14", None)
    jobs, _ = planned(project, config)
    jobs.pop("total")
    assert jobs == expected_jobs(tasks=7, models=2, seeds=4)


def test_fetching_downloads_and_computes_nothing(clip):
    jobs, _ = planned(*clip, target="fetch")
    assert jobs == {"download": 9, "download_weights": 3, "fetch": 1, "total": 13}


def test_the_slurm_profile_alone_plans_the_papers_experiment(new_project, tmp_path):
    done = new_project.run(
        "--profile", "slurm", "--dry-run", "all_tables",
        SNAKEMAKE_OUTPUT_CACHE=str(tmp_path / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    printed = done.stdout + done.stderr
    assert re.search(r"^total +811$", printed, re.M)
    assert "fine-tuning ViT-L-14 on cars, linear, seed 2" in printed
