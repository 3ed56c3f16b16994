"""Class names and prompts of a zero-shot head: a data set's own made readable, or configured ones.

A split keeps the data set's own names, which tell its classes apart; these here are for prompts,
where two classes may share a name (ImageNet, as CLIP names it, has two missiles).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from task_arithmetic.artifacts import PipelineError

IMAGENET = "imagenet"
ClassNames = Sequence[str] | Mapping[str, str] | str | None


def readable(name: str) -> str:
    """Return a class name in words.

    A data set names its classes for programs: `baseball_diamond`, `/c/canal/urban`, `AnnualCrop`.
    Names that are words already, such as `AM General Hummer SUV 2000`, stay as they are.

    Args:
        name: The data set's name of a class.

    Returns:
        The name with blanks between its words.
    """
    # SUN397 keeps its classes below a folder per initial.
    name = re.sub(r"^/?[a-z]/", "", name)
    if re.fullmatch(r"(?:[A-Z][a-z]+){2,}", name):
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return " ".join(re.split(r"[\s_/]+", name.strip("/_ ")))


def chosen_names(where: str, found: Sequence[str], chosen: ClassNames) -> list[str]:
    """Return the class names of a task: the data set's own made readable, or the configured ones.

    Args:
        where: What to call the task in a message.
        found: The data set's own names by class index.
        chosen: None; all names in the order of the class indices; new names by the data set's own
            or readable ones; or `imagenet` for the names that open_clip ships.

    Returns:
        Class names by index.

    Raises:
        PipelineError: If the number of names is wrong, or a renamed class does not exist.
    """
    words = [readable(name) for name in found]
    if chosen == IMAGENET:
        from open_clip import IMAGENET_CLASSNAMES

        chosen = IMAGENET_CLASSNAMES
    if isinstance(chosen, Mapping):
        unknown = sorted(set(chosen) - set(found) - set(words))
        if unknown:
            raise PipelineError(
                f"{where}: class_names: expected names of classes, such as {words[:3]}, "
                f"found {unknown}"
            )
        pairs = zip(found, words, strict=True)
        names = [chosen.get(own, chosen.get(word, word)) for own, word in pairs]
    else:
        names = words if chosen is None else list(chosen)
    if len(names) != len(found):
        raise PipelineError(
            f"{where}: class_names: expected {len(found)} names, one per class of the data set, "
            f"found {len(names)}"
        )
    return names


def chosen_templates(templates: Sequence[str] | str) -> list[str]:
    """Return prompts with `{}` where the class name goes.

    Args:
        templates: The prompts, or `imagenet` for the eighty that open_clip ships.

    Returns:
        The prompts.
    """
    if templates == IMAGENET:
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
    return list(templates)
