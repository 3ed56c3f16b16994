"""Export: results with their lineage as a Workflow Run RO-Crate (process run profile).

The crate holds what people read (tables, figures, report), the configuration and every record. What
is large, such as checkpoints, images and features, is named by the hash of its content.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rocrate.model.contextentity import ContextEntity
from rocrate.model.data_entity import DataEntity
from rocrate.model.entity import Entity
from rocrate.model.softwareapplication import SoftwareApplication
from rocrate.rocrate import ROCrate

from task_arithmetic.artifacts import PipelineError, atomic_path
from task_arithmetic.audit import Node, Verdict, summarize
from task_arithmetic.lineage import read_record, record_path

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
LICENSE = "https://spdx.org/licenses/Apache-2.0"
# What is held by the crate itself, by the suffix of its name.
CONTAINED = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".tex": "application/x-tex",
    ".yaml": "application/yaml",
}
NAMED = {".parquet": "application/vnd.apache.parquet"}


def export_crate(
    path: Path, experiment: str, nodes: Mapping[str, Node], documents: Iterable[Path]
) -> None:
    """Write a crate of audited results.

    Args:
        path: The ZIP file to write.
        experiment: The experiment's name.
        nodes: The audit of the results.
        documents: Files to add as they are: the configuration, the report.

    Raises:
        PipelineError: If a file is not ok: a crate vouches for what it holds.
    """
    if any(node.verdict is not Verdict.OK for node in nodes.values()):
        raise PipelineError(
            f"expected results that are all ok, found {summarize(nodes)}; "
            "`task-arithmetic audit --why` says what to do"
        )
    crate = ROCrate(version="1.1")
    crate.root_dataset["name"] = f"Task arithmetic: results of the experiment {experiment}"
    crate.root_dataset["description"] = (
        "Tables and figures with the configuration and the record of every step behind them. "
        "Checkpoints, datasets and features are named by their SHA-256."
    )
    crate.root_dataset["license"] = crate.add(
        ContextEntity(crate, LICENSE, {"@type": "CreativeWork", "name": "Apache License 2.0"})
    )
    crate.root_dataset["conformsTo"] = crate.add(
        ContextEntity(
            crate,
            PROFILE,
            {"@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
        )
    )
    for document in documents:
        _add_contained(crate, str(document))
    records = {name: read_record(name) for name in nodes if record_path(name).exists()}
    entities = _add_files(crate, nodes, records)
    runs = {(record["command"], record["started"]): record for record in records.values()}
    crate.root_dataset["mentions"] = [
        _add_run(crate, number, record, entities)
        for number, (_, record) in enumerate(sorted(runs.items(), key=lambda run: run[0][1]))
    ]
    with atomic_path(path) as temporary:
        crate.write_zip(temporary)


def _add_files(
    crate: ROCrate, nodes: Mapping[str, Node], records: Mapping[str, Mapping[str, Any]]
) -> dict[str, Entity]:
    """Add every audited file, inside or by hash, and every record; return entities by hash."""
    entities: dict[str, Entity] = {}
    for name, node in nodes.items():
        if node.sha256 in entities:
            names = [*_listed(entities[node.sha256].get("alternateName")), name]
            entities[node.sha256]["alternateName"] = names
        elif Path(name).suffix in CONTAINED:
            entities[node.sha256] = _add_contained(crate, name, node.sha256)
        else:
            entities[node.sha256] = _add_named(crate, name, node.sha256)
        if name in records:
            record = _add_contained(crate, str(record_path(name)))
            record["about"] = entities[node.sha256]
    return entities


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value] if value else []


def _add_contained(crate: ROCrate, name: str, content: str | None = None) -> Entity:
    """Add a file that the crate holds under its own path."""
    properties = {
        "name": name,
        "encodingFormat": CONTAINED[Path(name).suffix],
        "contentSize": str(Path(name).stat().st_size),
        **({} if content is None else {"sha256": content}),
    }
    return crate.add_file(name, dest_path=name, properties=properties)


def _add_named(crate: ROCrate, name: str, content: str) -> Entity:
    """Add a file that the crate only names, by the hash of its content."""
    properties = {
        "@type": "File",
        "name": name,
        "description": "Not in this crate: the file with this SHA-256.",
        "encodingFormat": NAMED.get(Path(name).suffix, "application/octet-stream"),
        "contentSize": str(Path(name).stat().st_size),
        "sha256": content,
    }
    return crate.add(DataEntity(crate, _hash_uri(content), properties))


def _hash_uri(content: str) -> str:
    """Return the URI of a SHA-256 in hexadecimal (RFC 6920)."""
    digest = base64.urlsafe_b64encode(bytes.fromhex(content)).decode().rstrip("=")
    return f"ni:///sha-256;{digest}"


def _add_run(
    crate: ROCrate, number: int, record: Mapping[str, Any], entities: Mapping[str, Entity]
) -> Entity:
    """Add one run of a step: what it read, what it wrote, with which software, and when."""
    started = datetime.fromisoformat(record["started"])
    git = record["git"] or {"commit": "unknown", "dirty": False}
    version = f"{git['commit']}{' with changes' if git['dirty'] else ''}"
    software = crate.add(
        SoftwareApplication(
            crate,
            f"{_hash_uri(record['code']['digest'])}?step={record['step']}",
            {
                "name": f"task-arithmetic {record['step']}",
                "softwareVersion": version,
                "softwareRequirements": [
                    f"{name}=={release}" for name, release in record["packages"].items()
                ],
            },
        )
    )
    used, made = (
        [entities[file["sha256"]] for file in record[key] if file["sha256"] in entities]
        for key in ("inputs", "outputs")
    )
    properties = {
        "@type": "CreateAction",
        "name": f"{record['step']} of {', '.join(file['path'] for file in record['outputs'][:1])}",
        "description": record["command"],
        "instrument": software,
        "startTime": record["started"],
        "endTime": (started + timedelta(seconds=record["seconds"])).isoformat(timespec="seconds"),
        "actionStatus": "http://schema.org/CompletedActionStatus",
    }
    run = crate.add(ContextEntity(crate, f"#run-{number}", properties))
    run["object"], run["result"] = used, made
    return run
