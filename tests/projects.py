"""Small projects to run: copies of this one with few tasks, few images and few steps."""

import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
SOURCES = (
    "Snakefile", "config", "config.yaml", "envs", "profiles", "slurm", "workflow",
)  # fmt: skip
TASKS = ["digits", "shapes"]
ANALYSES = ["merging", "subsets", "negation_baselines", "ablations", "analogies", "analyses"]


@dataclass(frozen=True)
class Project:
    """A copy of the project in a folder of its own."""

    root: Path

    @property
    def config(self):
        return yaml.safe_load((self.root / "config.yaml").read_text())

    def configure(self, change):
        """Rewrite the configuration with what `change` makes of it."""
        config = self.config
        change(config)
        (self.root / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    def run(self, *arguments, command="snakemake", **variables):
        """Run a command in the project, with the project's own copy of the package."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.root / "workflow"),
            "OMP_NUM_THREADS": "1",
            **variables,
        }
        if "HF_HUB_OFFLINE" not in variables:
            # Commands that ran in this process set it.
            environment.pop("HF_HUB_OFFLINE", None)
        running = subprocess.Popen(
            [command, *map(str, arguments)],
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            printed = running.communicate(timeout=540)
        except BaseException:
            # Its jobs, too: they would go on and slow everything after them.
            os.killpg(running.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(running.args, running.returncode, *printed)

    def planned(self, *targets):
        """Return what Snakemake would run: the messages of the planned jobs, sorted."""
        done = self.run("--dry-run", "--quiet", "host", "--", *targets)
        assert done.returncode == 0, done.stdout + done.stderr
        return sorted(re.findall(r"^Job \d+: (.*)$", done.stdout + done.stderr, re.MULTILINE))

    def result(self, name):
        return self.root / "results" / "embedded" / name

    def copy_to(self, folder):
        shutil.copytree(self.root, folder, symlinks=True)
        return Project(folder)


def shrink(config):
    """Make the experiment small enough to run in a test."""
    config["tasks"] = list(TASKS)
    config["coefficients"] = [0.0, 0.5, 1.0]
    config["finetuning"] |= {"steps": 4, "warmup_steps": 1, "checkpoint_every": 2}
    config["evaluation"]["batch_size"] = 64
    # The analyses have tests of their own.
    for analysis in ANALYSES:
        config.pop(analysis)
    for dataset in config["datasets"].values():
        dataset["source"] |= {"train": 200, "test": 40}
        dataset.pop("finetuning", None)


def make_project(root):
    """Return a small project in a new or empty folder, in which nothing has run."""
    root.mkdir(parents=True, exist_ok=True)
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, root / name, ignore=ignored)
        else:
            shutil.copy(source, root / name)
    project = Project(root)
    project.configure(shrink)
    return project
