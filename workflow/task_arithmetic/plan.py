"""The plan: what the workflow would make now, of which inputs, with which settings and code.

The rules and the functions behind their params are the only place that knows. So Snakemake itself
is asked for its graph of jobs, and nothing is said twice.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from task_arithmetic.artifacts import PipelineError
from task_arithmetic.estimates import PlannedJob
from task_arithmetic.lineage import RECORD_SUFFIX


@dataclass(frozen=True)
class PlannedArtifact:
    """How the workflow would make an artifact now.

    Attributes:
        job: What Snakemake calls the job that makes it.
        settings: The step's named parameters.
        code: The digest of the code that computes it; None if the rule names none.
        inputs: Paths of the files it is made of.
        siblings: Paths of all artifacts of the job, itself among them.
        store: Folder of the column store, whose files are inputs that no rule declares; or None.
    """

    job: str
    settings: Mapping[str, Any]
    code: str | None
    inputs: frozenset[str]
    siblings: frozenset[str]
    store: str | None


@dataclass(frozen=True)
class Plan:
    """What the workflow would make now.

    Attributes:
        artifacts: Every planned artifact by its path.
        experiment: The experiment's name.
    """

    artifacts: Mapping[str, PlannedArtifact]
    experiment: str

    @property
    def stores(self) -> set[str]:
        """Folders of column stores."""
        return {planned.store for planned in self.artifacts.values() if planned.store}

    @property
    def tables(self) -> list[str]:
        """Paths of all tables."""
        return self._in_folders("tables")

    @property
    def shown(self) -> list[str]:
        """Paths of all that people look at: tables, figures and summaries."""
        return self._in_folders("tables", "figures", "summary")

    def _in_folders(self, *names: str) -> list[str]:
        folders = {Path("results", self.experiment, name) for name in names}
        return sorted(path for path in self.artifacts if Path(path).parent in folders)


def present_plan(config_file: Path | None = None, target: str = "all") -> Plan:
    """Ask Snakemake what it would make now.

    Args:
        config_file: The experiment's configuration; None for the default one.
        target: The rule or file that everything is planned for.

    Returns:
        The plan.
    """
    with workflow_jobs(config_file, target) as (jobs, config):
        artifacts = {path: planned for job in jobs for path, planned in _planned(job).items()}
        return Plan(artifacts, config["experiment"])


def present_jobs(
    config_file: Path | None = None, target: str = "all"
) -> tuple[list[PlannedJob], dict[str, Any]]:
    """Ask Snakemake for all jobs of a target, finished ones among them.

    Args:
        config_file: The experiment's configuration; None for the default one.
        target: The rule or file that everything is planned for.

    Returns:
        The jobs as costs are estimated of, and the configuration.
    """
    with workflow_jobs(config_file, target) as (jobs, config):
        return [planned_job(job) for job in jobs], config


def planned_job(job: Any) -> PlannedJob:
    """Return what costs are estimated of, from a job of Snakemake."""
    return PlannedJob(
        rule=job.rule.name,
        settings=json.loads(dict(job.params.items()).get("settings", "{}")),
        model=job.wildcards_dict.get("model"),
        gpus=job.resources.get("gpu", 0),
        # Of the rule: in a local run every job is.
        local=job.rule.norun or job.rule.name in job.rule.workflow._localrules,
    )


@contextlib.contextmanager
def workflow_jobs(
    config_file: Path | None, target: str
) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """Let Snakemake read the workflow of the present folder.

    Args:
        config_file: The experiment's configuration; None for the default one.
        target: The rule or file that everything is planned for.

    Yields:
        Snakemake's jobs, and the configuration.

    Raises:
        PipelineError: If the workflow cannot be planned, say because a source file is missing.
    """
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import (
        ConfigSettings,
        DAGSettings,
        OutputSettings,
        Quietness,
        ResourceSettings,
    )

    snakefile = Path("Snakefile")
    if not snakefile.exists():
        raise PipelineError(f"{snakefile}: expected the workflow in {Path.cwd()}; go to its folder")
    messages = io.StringIO()
    config = ConfigSettings(configfiles=[] if config_file is None else [config_file])
    # forceall: the graph of all jobs is wanted, and no file has to be hashed for it.
    settings = DAGSettings(targets={target}, forceall=True)
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(messages),
        SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api,
    ):
        try:
            workflow = api.workflow(ResourceSettings(), config, snakefile=snakefile)
            workflow.dag(settings).printfilegraph()
        except SystemExit as stop:
            raise PipelineError(messages.getvalue().strip()) from stop
        except Exception as error:
            raise PipelineError(f"the workflow cannot be planned: {error}") from error
        # The one attribute of Snakemake that its interface does not promise.
        inner = workflow._workflow
        yield list(inner.dag.jobs), inner.globals["config"]


def _planned(job: Any) -> dict[str, PlannedArtifact]:
    """Return a job's artifacts, which its records are not."""
    params = dict(job.params.items())
    paths = frozenset(str(path) for path in job.output if not path.endswith(RECORD_SUFFIX))
    planned = PlannedArtifact(
        job=job.message or job.rule.name,
        settings=json.loads(params.get("settings", "{}")),
        code=params.get("code"),
        inputs=frozenset(str(path) for path in job.input),
        siblings=paths,
        store=params.get("store"),
    )
    return dict.fromkeys(paths, planned)
