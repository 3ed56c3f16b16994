"""Print, for every job of a cached rule, the name of its entry in the cache between workflows.

Run in a project's folder, with that project's package, so that changed sources count.
"""

import asyncio
import json
import re
from pathlib import Path

from snakemake.api import SnakemakeApi
from snakemake.caching.hash import ProvenanceHashMap
from snakemake.settings.types import (
    DAGSettings,
    OutputSettings,
    Quietness,
    ResourceSettings,
    WorkflowSettings,
)

with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
    workflow = api.workflow(
        ResourceSettings(),
        workflow_settings=WorkflowSettings(cache=[]),
        snakefile=Path("Snakefile"),
    )
    workflow.dag(DAGSettings(targets={"all"}, forceall=True)).printfilegraph()
    inner, names = workflow._workflow, ProvenanceHashMap()
    report = {
        "rules": {
            rule.name: {
                "fields": sorted(set(re.findall(r"{(\w+)[}.:]", rule.shellcmd or "{run}"))),
                "params": sorted(dict(rule.params.items())),
                "outputs": sorted(dict(rule.output.items())),
            }
            for rule in inner.rules
            if rule.cache.output
        },
        "entries": [
            {
                "rule": job.rule.name,
                "wildcards": dict(job.wildcards.items()),
                "entry": asyncio.run(names.get_provenance_hash(job)),
            }
            for job in inner.dag.jobs
            if job.rule.cache.output
        ],
    }
print("\n" + json.dumps(report))
