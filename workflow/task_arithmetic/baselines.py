"""What a negated task vector is compared with (Ilharco et al. 2023, section 3, table 1).

The fine-tuned model itself, gradient ascent on the target, and a random vector with the same norm
in every tensor. Gradient ascent is measured as trained, and, as our extension, also along the line
to θ0 at the α that keeps the control, as a negation is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from task_arithmetic.coefficients import SELECTION_COLUMNS, select_negation
from task_arithmetic.measuring import Bench, Examples
from task_arithmetic.variants import random_like
from task_arithmetic.vectors import TaskVector


@dataclass(frozen=True)
class Forgetting:
    """How the baselines of a negation are measured.

    Attributes:
        bench: The encoder and the mode.
        alphas: The grid of α for those that have one; 0 is measured in any case.
        control: The dataset whose accuracy must be kept.
        threshold: The share of its pre-trained accuracy to keep.
    """

    bench: Bench
    alphas: Sequence[float]
    control: str
    threshold: float

    def measure(
        self,
        task: str,
        vector: TaskVector,
        ascent: TaskVector,
        validation: Sequence[Examples],
        test: Sequence[Examples],
    ) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """Measure the baselines of one task's negation.

        Args:
            task: The target.
            vector: Its task vector τ.
            ascent: θ − θ0 after gradient ascent on it.
            validation: Validation images of the target and of the control.
            test: Test images of the two.

        Returns:
            Validation rows over α, the selections, and test rows at the selected α (none where no
            α is feasible). The edits are `random-TASK`, `scaled_ascent-TASK`, `ascent-TASK` and
            `finetuned-TASK`; the last two have α = 1.
        """
        scaled = {
            f"random-{task}": -random_like(vector, self.bench.seed),
            f"scaled_ascent-{task}": ascent,
        }
        grid = [0.0, *(alpha for alpha in self.alphas if alpha)]
        curves = self.bench.measure(scaled, dict.fromkeys(scaled, grid), validation)
        selections, at = [], {}
        for edit in scaled:
            curve = curves[curves.edit == edit]
            chosen = select_negation(curve, task, self.control, self.threshold)
            identity = [self.bench.encoder.model, self.bench.seed, self.bench.mode, edit]
            selections.append([*identity, chosen.alpha, chosen.feasible, chosen.objective])
            at[edit] = [chosen.alpha] if chosen.feasible else []
        whole = {f"ascent-{task}": ascent, f"finetuned-{task}": vector}
        at |= {edit: [1.0] for edit in whole}
        tests = self.bench.measure(scaled | whole, at, test)
        return curves, pd.DataFrame(selections, columns=SELECTION_COLUMNS), tests
