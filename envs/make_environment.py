"""Write environment.yaml, for users of conda, from requirements.in; `make lock` runs it.

Conda brings the interpreter and pip the packages, under the same constraints as in .venv.
"""

from pathlib import Path

HEADER = """\
# Made from requirements.in by `make lock`; edit that file.
# `conda env create --file envs/environment.yaml`, then `pip install --no-deps --editable .`
name: task-arithmetic
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python=3.11
  - pip
  - pip:
"""


def environment_yaml(requirements: str) -> str:
    """Translate the text of a requirements file to a conda environment.

    Args:
        requirements: One requirement per line; blank lines and `#` comments are left out.

    Returns:
        The text of environment.yaml, with the requirements in the order they came.
    """
    lines = (line.partition("#")[0].strip() for line in requirements.splitlines())
    return HEADER + "".join(f"      - {line}\n" for line in lines if line)


if __name__ == "__main__":
    here = Path(__file__).parent
    text = environment_yaml((here / "requirements.in").read_text(encoding="utf-8"))
    (here / "environment.yaml").write_text(text, encoding="utf-8")
