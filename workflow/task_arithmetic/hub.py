"""Files from a hub: fetched over any number of attempts, and accepted only if they are the hub's.

Everything goes through `huggingface_hub`'s session, so HF_ENDPOINT, HF_TOKEN and proxies are
honoured. A transfer is kept beside its target and goes on where it ended, after an error or in
another run; its size and its hash, as the hub states them, are checked before it gets its name.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal

import httpx2
import tenacity
from filelock import FileLock
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from task_arithmetic.artifacts import PipelineError, sha256
from task_arithmetic.progress import Progress

logger = logging.getLogger(__name__)
RepoType = Literal["dataset", "model"]
ATTEMPTS = 8
LONGEST_WAIT = 120.0
CHUNK = 1 << 20
TRANSIENT_STATUSES = {408, 425, 429, 500, 502, 503, 504}
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubFile:
    """A file on a hub, pinned to a commit and to its content.

    Attributes:
        repo: The repository, such as `ylecun/mnist`.
        filename: The file's path in the repository.
        commit: The commit, 40 hexadecimal digits.
        repo_type: `dataset` or `model`.
        size: Its size in bytes.
        sha256: The SHA-256 of its content; None for a file that the hub keeps in git itself.
        blob: Git's name for its content, a SHA-1; of the pointer where `sha256` is given.
    """

    repo: str
    filename: str
    commit: str
    repo_type: RepoType
    size: int
    sha256: str | None
    blob: str

    def matches(self, path: Path) -> bool:
        """Return whether a local file has this file's size and hash."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        if self.sha256:
            return sha256(path) == self.sha256
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == self.blob


class DamagedTransferError(Exception):
    """What arrived is not what the hub says it is; another attempt may do better."""


def describe(
    repo: str, revision: str, repo_type: RepoType = "dataset", instead: str = ""
) -> list[HubFile]:
    """List the files of a repository with their sizes and hashes.

    Args:
        repo: The repository.
        revision: A commit, tag or branch; the files are pinned to the commit it means now.
        repo_type: `dataset` or `model`.
        instead: How to go on without the repository, for the message when access is refused.

    Returns:
        All files, sorted by name.

    Raises:
        PipelineError: If the hub cannot be reached or refuses.
    """
    api, which = HfApi(), {"revision": revision, "repo_type": repo_type}
    listed: list[HubFile] = []
    with _explained(repo, repo_type, f"revision {revision}", instead):
        for attempt in _attempts(f"{repo}: listing files"):
            with attempt:
                pinned = COMMIT.fullmatch(revision)
                commit = revision if pinned else str(api.repo_info(repo, **which).sha)
                which["revision"] = commit
                listed = [
                    HubFile(
                        repo,
                        file.path,
                        commit,
                        repo_type,
                        file.size,
                        file.lfs.sha256 if file.lfs else None,
                        file.blob_id,
                    )
                    for file in api.list_repo_tree(repo, recursive=True, **which)
                    if isinstance(file, RepoFile)
                ]
    return sorted(listed, key=lambda file: file.filename)


def fetch_file(
    repo: str,
    filename: str,
    revision: str,
    repo_type: RepoType,
    folder: Path,
    instead: str = "",
) -> Path:
    """Fetch one file, unless it is there already.

    Args:
        repo: The repository.
        filename: The file's path in the repository.
        revision: A commit, tag or branch.
        repo_type: `dataset` or `model`.
        folder: Where to keep it, under its path in the repository.
        instead: How to go on without the repository, for the message when access is refused.

    Returns:
        The local file, whose size and hash are those that the hub states.

    Raises:
        PipelineError: If there is no such file, or it could not be fetched whole.
    """
    listed = {file.filename: file for file in describe(repo, revision, repo_type, instead)}
    if filename not in listed:
        raise PipelineError(
            f"{repo}: expected the file {filename} at revision {revision}, found "
            f"{', '.join(listed) or 'no files'}"
        )
    return fetch_files([listed[filename]], folder, instead)[0]


def fetch_files(files: Sequence[HubFile], folder: Path, instead: str = "") -> list[Path]:
    """Fetch described files, except those that are there already.

    Args:
        files: The files, all of one repository.
        folder: Where to keep them, under their paths in the repository.
        instead: How to go on without the repository, for the message when access is refused.

    Returns:
        The local files, whose sizes and hashes are those that the hub states.

    Raises:
        PipelineError: If a file could not be fetched whole. What arrived is kept, and the next
            call goes on from there.
    """
    targets = [folder / file.filename for file in files]
    total = sum(file.size for file in files)
    with Progress(f"fetching {files[0].repo}", total, "byte") as progress:
        for file, target in zip(files, targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            # Two processes that wrote one partial file would only damage it.
            with FileLock(target.with_name(f".{target.name}.lock")):
                if file.matches(target):
                    progress.advance(file.size)
                    continue
                with _explained(file.repo, file.repo_type, file.filename, instead):
                    for attempt in _attempts(f"{file.repo}: {file.filename}"):
                        with attempt:
                            _transfer(file, target, progress)
    return targets


def _transfer(file: HubFile, target: Path, progress: Progress) -> None:
    """Complete the partial file of a target, check it and give it its name.

    Raises:
        DamagedTransferError: If the complete file is not the hub's; it is removed.
    """
    # Named by content: what is left of another revision is never continued.
    partial = target.with_name(f".{target.name}.{(file.sha256 or file.blob)[:16]}.partial")
    done = partial.stat().st_size if partial.exists() else 0
    if done < file.size or not done:
        url = hf_hub_url(file.repo, file.filename, repo_type=file.repo_type, revision=file.commit)
        # Ranges count the bytes of the file, so it must come as it is.
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        if done:
            headers["Range"] = f"bytes={done}-"
        with (
            partial.open("ab") as stream,
            get_session().stream(
                "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
            ) as response,
        ):
            if response.is_error:
                response.read()
            hf_raise_for_status(response)
            if response.status_code != httpx2.codes.PARTIAL_CONTENT:
                stream.truncate(0)
            for chunk in response.iter_bytes(CHUNK):
                stream.write(chunk)
                progress.advance(len(chunk))
    if not file.matches(partial):
        found = partial.stat().st_size
        partial.unlink()
        raise DamagedTransferError(
            f"expected {file.size} bytes with hash {(file.sha256 or file.blob)[:12]}…, "
            f"found {found} bytes with another hash"
        )
    partial.replace(target)


def _attempts(what: str) -> tenacity.Retrying:
    """Return attempts at a request, further and further apart while the failure may pass."""

    def note(state: tenacity.RetryCallState) -> None:
        logger.info(
            "%s: attempt %d failed (%s), waiting %.0f s",
            what, state.attempt_number, _one_line(state.outcome.exception()), state.upcoming_sleep,
        )  # fmt: skip

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(_may_pass),
        wait=_wait,
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        before_sleep=note,
        reraise=True,
    )


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in TRANSIENT_STATUSES
    return isinstance(error, httpx2.TransportError | DamagedTransferError)


def _wait(state: tenacity.RetryCallState) -> float:
    """Return what the server asked for (Retry-After), or twice the time of the last wait."""
    error = state.outcome.exception()
    asked = error.response.headers.get("Retry-After") if isinstance(error, HfHubHTTPError) else None
    if asked is None:
        return min(2.0 ** (state.attempt_number - 1), LONGEST_WAIT)
    try:
        seconds = (
            float(asked)
            if asked.strip().isdigit()
            else (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds()
        )
    except (TypeError, ValueError):
        seconds = 1.0
    return min(max(seconds, 0.0), LONGEST_WAIT)


@contextmanager
def _explained(repo: str, repo_type: RepoType, what: str, instead: str) -> Iterator[None]:
    """Turn what a hub's client raises into one line for the user."""
    page = f"{constants.ENDPOINT}/{'datasets/' if repo_type == 'dataset' else ''}{repo}"
    otherwise = f"; {instead}" if instead else ""
    try:
        yield
    except GatedRepoError as error:
        raise PipelineError(
            f"{repo}: a gated {repo_type}: accept its terms at {page} and set HF_TOKEN to a token "
            f"of that account{otherwise}"
        ) from error
    except RepositoryNotFoundError as error:
        raise PipelineError(
            f"{repo}: expected a {repo_type} at {page}, found none, or one that needs HF_TOKEN"
            f"{otherwise}"
        ) from error
    except (RevisionNotFoundError, EntryNotFoundError) as error:
        raise PipelineError(f"{repo}: expected {what} at {page}, found none") from error
    except OfflineModeIsEnabled as error:
        raise PipelineError(
            f"{repo}: {what} is not here and HF_HUB_OFFLINE is set; unset it to fetch"
        ) from error
    except (HfHubHTTPError, httpx2.TransportError, DamagedTransferError) as error:
        raise PipelineError(
            f"{repo}: {what} could not be fetched from {page} ({_one_line(error)}); "
            "run again, and it goes on where it ended"
        ) from error
    except OSError as error:
        raise PipelineError(f"{repo}: {what} could not be written: {error}") from error


def _one_line(error: BaseException | None) -> str:
    return " ".join(str(error).split()) or type(error).__name__
