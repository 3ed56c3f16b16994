"""Projects to run, shared by the tests of the workflow and of faults."""

import os
import shutil

# Two processes share the cores; more threads would slow both. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from filelock import FileLock
from projects import Project, make_project


@pytest.fixture(scope="session")
def new_project(tmp_path_factory):
    """Return a small project in which nothing has run; tests must copy it to change it."""
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory, worker_id):
    """Return a small project in which everything has run; tests must copy it to change it."""
    # The processes of a parallel test run share one: the first to come makes it.
    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == "master" else shared.parent
    root, failed = shared / "finished" / "project", shared / "finished" / "failed"
    with FileLock(shared / "finished.lock"):
        if not root.exists() and not failed.exists():
            making = make_project(shared / "finished" / "making")
            done = making.run("--cores", "2", "all")
            if done.returncode == 0:
                shutil.move(making.root, root)
            else:
                failed.write_text(done.stdout[-4000:] + done.stderr[-4000:])
    assert root.exists(), failed.read_text()
    return Project(root)


@pytest.fixture
def project(finished_project, tmp_path):
    """Return a copy of the finished project that a test may change."""
    return finished_project.copy_to(tmp_path / "project")
