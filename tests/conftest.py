"""Projects to run, shared by the tests of the workflow and of faults."""

import pytest
from projects import make_project


@pytest.fixture(scope="session")
def new_project(tmp_path_factory):
    """Return a small project in which nothing has run; tests must copy it to change it."""
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def finished_project(new_project, tmp_path_factory):
    """Return a small project in which everything has run; tests must copy it to change it."""
    project = new_project.copy_to(tmp_path_factory.mktemp("finished") / "project")
    done = project.run("--cores", "2", "all")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return project


@pytest.fixture
def project(finished_project, tmp_path):
    """Return a copy of the finished project that a test may change."""
    return finished_project.copy_to(tmp_path / "project")
