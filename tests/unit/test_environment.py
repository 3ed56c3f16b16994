"""The lock and the conda environment say what requirements.in says, and no more."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ENVS = Path(__file__).parents[2] / "envs"
REQUIREMENTS = (ENVS / "requirements.in").read_text(encoding="utf-8")
LOCK = (ENVS / "requirements.lock").read_text(encoding="utf-8")
# A backslash at the end of a line continues it, so that hashes belong to their package's line.
LOCKED = [
    line
    for line in LOCK.replace("\\\n", " ").splitlines()
    if line.strip() and not line.lstrip().startswith("#")
]


def wanted() -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in REQUIREMENTS.splitlines())
    return [Requirement(line) for line in lines if line]


def pins() -> dict[str, str]:
    return {
        canonicalize_name(name): version
        for name, version in (line.split()[0].split("==") for line in LOCKED)
    }


def load_make_environment():
    spec = importlib.util.spec_from_file_location("make_environment", ENVS / "make_environment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_conda_environment_is_what_the_script_makes_of_the_requirements():
    expected = load_make_environment().environment_yaml(REQUIREMENTS)
    assert (ENVS / "environment.yaml").read_text(encoding="utf-8") == expected, "run `make lock`"


def test_the_conda_environment_asks_pip_for_every_requirement():
    environment = yaml.safe_load((ENVS / "environment.yaml").read_text(encoding="utf-8"))
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert [Requirement(line) for line in pip] == wanted()


def test_comments_and_blank_lines_do_not_reach_the_conda_environment():
    text = load_make_environment().environment_yaml("# a title\n\nnumpy==2.0  # why\n  pandas\n")
    assert text.endswith("  - pip:\n      - numpy==2.0\n      - pandas\n")


@pytest.mark.parametrize("requirement", wanted(), ids=lambda requirement: requirement.name)
def test_the_lock_pins_every_requirement_within_its_constraint(requirement):
    version = pins().get(canonicalize_name(requirement.name))
    assert version is not None, f"{requirement.name} is not in the lock: run `make lock`"
    assert requirement.specifier.contains(version, prereleases=True)


def test_the_lock_pins_the_build_backend_that_the_editable_install_needs():
    assert "setuptools" in pins()


def test_every_locked_package_has_one_exact_version_and_a_hash():
    bare = [
        line.split()[0]
        for line in LOCKED
        if not re.fullmatch(r"[A-Za-z0-9._-]+==\S+(\s+--hash=sha256:[0-9a-f]{64})+\s*", line)
    ]
    assert bare == []


def test_the_lock_names_no_index_and_no_host():
    named = [line for line in LOCK.splitlines() if re.search(r"://|--(?!hash=)| @ ", line)]
    assert named == []
