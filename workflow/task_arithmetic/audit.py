"""The audit: walk from results to raw data, and judge every file on the way by content.

A file is compared with its own record; the record with the workflow as it is now, its code and its
settings; and what the record says of each input with that input. No verdict depends on a time. What
is stale here is what Snakemake would run again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from task_arithmetic.artifacts import PipelineError, sha256
from task_arithmetic.lineage import RECORD_SUFFIX, project_path, read_record, record_path
from task_arithmetic.plan import Plan, PlannedArtifact

SHOWN_INPUTS = 3


class Verdict(StrEnum):
    """What an audit says of a file, the gravest first."""

    MISSING = "missing"
    UNRECORDED = "unrecorded"
    MODIFIED = "modified"
    STALE_CODE = "stale (code)"
    STALE_CONFIG = "stale (config)"
    STALE_INPUT = "stale (input)"
    OK = "ok"

    @property
    def stale(self) -> bool:
        """Whether the file should be made again, though it is what it was made to be."""
        return self in {Verdict.STALE_CODE, Verdict.STALE_CONFIG, Verdict.STALE_INPUT}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a file.

    Attributes:
        verdict: What it makes of the file.
        reason: What is wrong, in words.
        expected: The value that would be right.
        found: The value that is there.
    """

    verdict: Verdict
    reason: str
    expected: Any
    found: Any


@dataclass(frozen=True)
class Node:
    """An audited file.

    Attributes:
        path: Its path in the project.
        sha256: The digest of its content, or the recorded one if it is missing; None if unknown.
        findings: What is wrong with it.
        inputs: Paths of what it was made of, and would be made of now.
        job: What Snakemake calls the job that makes it; None for what no job makes.
    """

    path: str
    sha256: str | None
    findings: tuple[Finding, ...]
    inputs: tuple[str, ...]
    job: str | None

    @property
    def verdict(self) -> Verdict:
        """The gravest of the findings."""
        return next((verdict for verdict in Verdict if verdict in self.all_verdicts), Verdict.OK)

    @property
    def all_verdicts(self) -> set[Verdict]:
        """The verdicts of all findings."""
        return {finding.verdict for finding in self.findings}

    @property
    def stale(self) -> bool:
        """Whether the file should be made again, whatever else is wrong with it."""
        return any(verdict.stale for verdict in self.all_verdicts)


def audit(targets: Iterable[str], plan: Plan) -> dict[str, Node]:
    """Audit files and everything that they were made of.

    Args:
        targets: Paths of results, relative to the project.
        plan: What the workflow would make now.

    Returns:
        All files reached, by path, every file after its inputs.
    """
    walk = _Walk(plan, set(targets), {})
    for target in sorted(walk.targets):
        walk.visit(target)
    _mark_remade(walk.nodes, plan, walk.targets)
    return walk.nodes


def targets_in(paths: Iterable[Path], plan: Plan) -> list[str]:
    """Return what to audit: files as they are, and all artifacts in folders.

    Args:
        paths: Files and folders.
        plan: What the workflow would make now.

    Returns:
        Paths of artifacts, relative to the project.

    Raises:
        PipelineError: If a folder has no artifacts.
    """
    targets = []
    for path in paths:
        if not path.is_dir():
            targets.append(project_path(path))
            continue
        folder = path.absolute()
        planned = {name for name in plan.artifacts if Path(name).absolute().is_relative_to(folder)}
        recorded = {
            project_path(record).removesuffix(RECORD_SUFFIX)
            for record in path.rglob(f"*{RECORD_SUFFIX}")
        }
        if not planned | recorded:
            raise PipelineError(f"{path}: expected artifacts in this folder, found none")
        targets += sorted(planned | recorded)
    return targets


def summarize(nodes: Mapping[str, Node]) -> dict[str, int]:
    """Return how many files have each verdict, the gravest first."""
    counts = Counter(node.verdict for node in nodes.values())
    return {str(verdict): counts[verdict] for verdict in Verdict if counts[verdict]}


@dataclass
class _Walk:
    """The nodes that an audit has reached on its way from targets to raw data."""

    plan: Plan
    targets: set[str]
    nodes: dict[str, Node]

    def visit(self, path: str) -> Node:
        """Judge a file after its inputs."""
        if path in self.nodes:
            return self.nodes[path]
        planned = self.plan.artifacts.get(path)
        # Only raw data may have no record.
        made = planned is not None or path in self.targets or self._is_column(path)
        record, findings = _read(path, expected=made)
        found = sha256(path) if Path(path).is_file() else None
        inputs = self._inputs(path, record, planned)
        for name in inputs:
            self.visit(name)
        recorded = _recorded_output(record, path)
        if found is None:
            findings.insert(0, Finding(Verdict.MISSING, "there is no such file", recorded, None))
        elif recorded is not None and found != recorded:
            reason = "its content is not what its record says"
            findings.append(Finding(Verdict.MODIFIED, reason, recorded, found))
        if record and planned:
            findings += _against_plan(record, planned)
        elif record and path in self.targets:
            reason = "the present configuration does not make it"
            findings.append(Finding(Verdict.STALE_CONFIG, reason, None, record["step"]))
        findings += self._against_inputs(record, inputs)
        job = planned.job if planned else None
        self.nodes[path] = Node(path, found or recorded, tuple(findings), inputs, job)
        return self.nodes[path]

    def _inputs(
        self, path: str, record: Mapping[str, Any] | None, planned: PlannedArtifact | None
    ) -> tuple[str, ...]:
        """Return what a file was made of, and what it would be made of now."""
        # A column's name is the digest of all that decides it: the run that happened to compute it
        # also read files that have nothing to do with it.
        if self._is_column(path):
            return ()
        recorded = {entry["path"] for entry in record["inputs"]} if record else set()
        return tuple(sorted(recorded | planned.inputs if planned else recorded))

    def _is_column(self, path: str) -> bool:
        return any(Path(path).is_relative_to(store) for store in self.plan.stores)

    def _against_inputs(
        self, record: Mapping[str, Any] | None, inputs: tuple[str, ...]
    ) -> Iterator[Finding]:
        """Compare each input with what the record says of it, and pass staleness on."""
        recorded = {entry["path"]: entry["sha256"] for entry in record["inputs"]} if record else {}
        for path in inputs:
            node = self.nodes[path]
            if path in recorded and node.sha256 not in {None, recorded[path]}:
                reason = f"{path} is not the file that it was made from"
                yield Finding(Verdict.STALE_INPUT, reason, recorded[path], node.sha256)
        for verdict in filter(lambda verdict: verdict.stale, Verdict):
            stale = [path for path in inputs if verdict in self.nodes[path].all_verdicts]
            if stale:
                reason = f"it was made from {', '.join(_shortened(stale))}"
                yield Finding(verdict, reason, str(Verdict.OK), str(verdict))


def _mark_remade(nodes: dict[str, Node], plan: Plan, targets: set[str]) -> None:
    """Mark as stale what would be made again because a file it is made of is missing and needed.

    A missing file is needed if it was asked for or if a file that is made of it is stale; one that
    nothing needs is not made again.
    """
    consumers: dict[str, set[str]] = {path: set() for path in nodes}
    for path in nodes.keys() & plan.artifacts.keys():
        for name in plan.artifacts[path].inputs:
            consumers[name].add(path)
    missing = {
        path
        for path in nodes.keys() & plan.artifacts.keys()
        if nodes[path].verdict is Verdict.MISSING
    }
    waiting = [
        path
        for path in sorted(missing)
        if path in targets or any(nodes[user].stale for user in consumers[path])
    ]
    remade: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in remade:
            continue
        siblings = plan.artifacts[path].siblings & nodes.keys()
        remade |= siblings
        waiting += sorted(missing & plan.artifacts[path].inputs)
        for user in sorted(set().union(*(consumers[name] for name in siblings))):
            waiting.append(user)
            if user not in missing and not nodes[user].stale:
                reason = f"it is made of {path}, which will be made again"
                finding = Finding(Verdict.STALE_INPUT, reason, None, None)
                nodes[user] = replace(nodes[user], findings=(*nodes[user].findings, finding))


def _read(path: str, expected: bool) -> tuple[dict[str, Any] | None, list[Finding]]:
    """Return the record of a file, if it can be trusted, and what is wrong with it."""
    if not record_path(path).is_file():
        if not expected or not Path(path).is_file():
            return None, []
        reason = "no record says what made it"
        return None, [Finding(Verdict.UNRECORDED, reason, str(record_path(path)), None)]
    try:
        record = _at_home(read_record(path), path)
    except PipelineError as error:
        return None, [Finding(Verdict.MODIFIED, f"its record was changed: {error}", None, None)]
    if record["artifact"] != path:
        reason = "the record beside it belongs to another file"
        return None, [Finding(Verdict.MODIFIED, reason, path, record["artifact"])]
    return record, []


def _at_home(record: dict[str, Any], path: str) -> dict[str, Any]:
    """Return a record with the paths of this experiment: a shared cache brings others."""
    # Such a record was written in results/ANOTHER_EXPERIMENT; all below that folder is the same.
    there, here = Path(record["artifact"]).parts, Path(path).parts
    if there[:2] == here[:2] or there[0] != here[0] or there[2:] != here[2:]:
        return record
    old, new = Path(*there[:2]), Path(*here[:2])

    def moved(name: str) -> str:
        return str(new / Path(name).relative_to(old)) if Path(name).is_relative_to(old) else name

    files = {
        key: [{**entry, "path": moved(entry["path"])} for entry in record[key]]
        for key in ("inputs", "outputs")
    }
    return {**record, **files, "artifact": moved(record["artifact"])}


def _recorded_output(record: Mapping[str, Any] | None, path: str) -> str | None:
    outputs = {entry["path"]: entry["sha256"] for entry in record["outputs"]} if record else {}
    return outputs.get(path)


def _against_plan(record: Mapping[str, Any], planned: PlannedArtifact) -> Iterator[Finding]:
    """Compare a record with the present code, settings and set of inputs."""
    if planned.code is not None and record["code"]["digest"] != planned.code:
        files = ", ".join(record["code"]["files"])
        reason = f"the code changed in one of {files}"
        yield Finding(Verdict.STALE_CODE, reason, planned.code, record["code"]["digest"])
    for key, expected, found in _differences(planned.settings, record["settings"]):
        yield Finding(Verdict.STALE_CONFIG, f"{key} changed", expected, found)
    recorded = {
        entry["path"]
        for entry in record["inputs"]
        if planned.store is None or not Path(entry["path"]).is_relative_to(planned.store)
    }
    if recorded != planned.inputs:
        reason = "it would be made of other files"
        more, fewer = sorted(planned.inputs - recorded), sorted(recorded - planned.inputs)
        yield Finding(Verdict.STALE_CONFIG, reason, _shortened(more), _shortened(fewer))


def _differences(expected: Any, found: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield where two JSON values differ: the keys that lead there, and both values."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for name in sorted({*expected, *found}):
            inner = f"{key}.{name}" if key else name
            yield from _differences(expected.get(name), found.get(name), inner)
    elif expected != found:
        yield key, expected, found


def _shortened(paths: list[str]) -> list[str]:
    more = len(paths) - SHOWN_INPUTS
    return paths if more <= 0 else [*paths[:SHOWN_INPUTS], f"and {more} more"]
