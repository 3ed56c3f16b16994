"""Made-up accuracies with the shapes of real ones: what tables and figures are tested on."""

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pandas as pd

TASKS = ("digits", "photos", "letters", "shapes", "colors", "counts", "textures", "signs")
CONTROL = "scenes"
ALPHAS = np.round(np.linspace(0, 1, 21), 9)
# Mode: the α at which interference starts to cost, and how well the control survives.
CHARACTER = {"nonlinear": (0.30, 0.70), "posthoc": (0.40, 0.85), "linear": (0.50, 1.0)}


def accuracy_rows(model, seed, mode, edit, dataset, split, accuracies, total=1000) -> pd.DataFrame:
    """One row per coefficient of `accuracies`, a mapping of α to a fraction."""
    correct = [round(accuracy * total) for accuracy in accuracies.values()]
    return pd.DataFrame({
        "model": model,
        "seed": seed,
        "mode": mode,
        "edit": edit,
        "dataset": dataset,
        "split": split,
        "alpha": list(map(float, accuracies)),
        "correct": correct,
        "total": total,
        "accuracy": [count / total for count in correct],
    })


def selection_row(model, seed, mode, edit, alpha, objective=0.5) -> pd.DataFrame:
    """What selecting a coefficient leaves; no α (None) stands for an infeasible edit."""
    return pd.DataFrame({
        "model": [model],
        "seed": [seed],
        "mode": [mode],
        "edit": [edit],
        "alpha": [np.nan if alpha is None else alpha],
        "feasible": [alpha is not None],
        "objective": [np.nan if alpha is None else objective],
    })


def experiment(
    models: Sequence[str] = ("tiny",),
    seeds: Sequence[int] = (0,),
    tasks: Sequence[str] = TASKS,
    infeasible: Sequence[tuple[str, str]] = (),
) -> SimpleNamespace:
    """Measure a made-up experiment whose curves have the papers' shapes.

    `infeasible` lists (mode, task) whose negation always breaks the control.
    """
    noise = np.random.default_rng(0)
    made = {
        name: []
        for name in (
            "singles",
            "addition_curves",
            "addition_tests",
            "addition_selections",
            "negation_curves",
            "negation_tests",
            "negation_selections",
        )
    }

    def jitter() -> float:
        return noise.normal(0, 0.006)

    for size, model in enumerate(models):
        for seed in seeds:
            for mode, (onset, survival) in CHARACTER.items():
                key = (model, seed, mode)
                start = {t: 0.35 + 0.04 * i + 0.05 * size for i, t in enumerate(tasks)}
                own = {
                    t: min(0.99, 0.84 + 0.02 * i + jitter() - 0.04 * (mode == "posthoc"))
                    for i, t in enumerate(tasks)
                }
                for t in tasks:
                    for split in ("validation", "test"):
                        ends = {0: start[t], 1: own[t]}
                        made["singles"].append(accuracy_rows(*key, f"single-{t}", t, split, ends))
                added = {
                    t: {
                        a: start[t]
                        + (own[t] - start[t])
                        * np.clip(2.2 * a * np.exp(-a / onset + 0.6), 0, 1)
                        * (1 - 0.05 * i)
                        + (jitter() if a else 0)
                        for a in ALPHAS
                    }
                    for i, t in enumerate(tasks)
                }
                means = {a: np.mean([added[t][a] / own[t] for t in tasks]) for a in ALPHAS}
                best = max(means, key=means.get)
                selected = selection_row(*key, "addition", best, means[best])
                made["addition_selections"].append(selected)
                for t, curve in added.items():
                    curves = accuracy_rows(*key, "addition", t, "validation", curve)
                    made["addition_curves"].append(curves)
                    tested = {a: curve[a] for a in (0.0, best)}
                    made["addition_tests"].append(
                        accuracy_rows(*key, "addition", t, "test", tested)
                    )
                for i, t in enumerate(tasks):
                    edit = f"negation-{t}"
                    target = {a: start[t] * np.exp(-a / (0.2 + 0.04 * i)) for a in ALPHAS}
                    control = {a: 0.63 * (1 - a**2 / (1 + 3 * survival + i / 8)) for a in ALPHAS}
                    kept = [a for a in ALPHAS if control[a] >= 0.95 * control[0.0]]
                    best = None if (mode, t) in infeasible else max(kept)
                    selected = selection_row(*key, edit, best)
                    made["negation_selections"].append(selected)
                    for dataset, curve in ((t, target), (CONTROL, control)):
                        curves = accuracy_rows(*key, edit, dataset, "validation", curve)
                        made["negation_curves"].append(curves)
                        tested = {a: curve[a] for a in ALPHAS if a in {0.0, best}}
                        made["negation_tests"].append(
                            accuracy_rows(*key, edit, dataset, "test", tested)
                        )
    frames = {name: pd.concat(parts, ignore_index=True) for name, parts in made.items()}
    return SimpleNamespace(**frames, tasks=list(tasks), control=CONTROL)
