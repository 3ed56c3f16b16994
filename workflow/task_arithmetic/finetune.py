"""Fine-tuning: one loop for both trained modes, resumable to bit-identical results on CPU.

The protocol is that of the tangent-space paper's code (Ortiz-Jimenez et al. 2023, appendix B):
AdamW with weight decay on θ, in linear mode too, a cosine schedule after a linear warm-up, gradient
norm clipped at 1, the zero-shot head frozen, the tower in evaluation mode.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from accelerate import Accelerator
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from task_arithmetic.artifacts import PipelineError, read_tensors, write_tensors
from task_arithmetic.encoders import Encoder
from task_arithmetic.loading import Images, as_images
from task_arithmetic.preemption import PreemptedError, stop_requests
from task_arithmetic.progress import Progress
from task_arithmetic.tangent import linearize

logger = logging.getLogger(__name__)
LOG_COLUMNS = ("step", "epoch", "learning_rate", "loss", "accuracy", "gradient_norm")
MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True)
class FinetuneSettings:
    """How one task is fine-tuned.

    Attributes:
        mode: `nonlinear` trains f(x; θ), `linear` trains f(x; θ0) + J(x; θ0)(θ − θ0).
        seed: Decides the order of the examples.
        learning_rate: The peak learning rate.
        weight_decay: AdamW's decoupled weight decay, pulling θ to zero.
        warmup_steps: Steps of linear warm-up.
        batch_size: Examples per optimizer step, over all processes and parts together.
        accumulation: How many parts a batch is computed in.
        clip_norm: The gradient norm is clipped to this.
        label_smoothing: Share of the target probability spread over all classes.
        precision: `fp32`, or `bf16`/`fp16` autocast.
        checkpoint_every: Steps between resumable states.
        augmentation: `none`, or `crop` for another random crop of each image in each epoch.
        steps: Optimizer steps; exactly one of this and `epochs` is given.
        epochs: Passes over the training examples.
    """

    mode: Literal["nonlinear", "linear"]
    seed: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    batch_size: int
    accumulation: int
    clip_norm: float
    label_smoothing: float
    precision: Literal["fp32", "bf16", "fp16"]
    checkpoint_every: int
    augmentation: Literal["none", "crop"] = "none"
    steps: int | None = None
    epochs: int | None = None

    def total_steps(self, examples: int) -> int:
        """Return the number of optimizer steps for a number of training examples.

        Raises:
            ValueError: If not exactly one of steps and epochs is set.
        """
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("expected exactly one of steps and epochs")
        return self.steps or self.epochs * math.ceil(examples / self.batch_size)


@dataclass(frozen=True)
class Batch:
    """The examples of one optimizer step."""

    step: int
    epoch: int
    indices: Int[Tensor, " batch"]


def finetune(
    encoder: Encoder,
    head: Float[Tensor, "classes features"],
    images: Images | UInt8[Tensor, "examples height width 3"],
    labels: Int[Tensor, " examples"],
    settings: FinetuneSettings,
    resume_path: Path,
    fingerprint: str,
    description: str = "fine-tuning",
) -> tuple[dict[str, Tensor], pd.DataFrame]:
    """Fine-tune an image tower on one task.

    Args:
        encoder: The pre-trained tower θ0 and its preprocessing.
        head: The frozen classifier W: logits = W·z/‖z‖.
        images: Training images, RGB.
        labels: Class indices.
        settings: The protocol.
        resume_path: Where resumable states are kept; an existing one of the same fingerprint is
            continued, another one is ignored.
        fingerprint: Identifies everything that decides the result.
        description: What to call the work in progress reports.

    Returns:
        The fine-tuned parameters θt by name, on the CPU, and the training log, one row per step.

    Raises:
        PipelineError: If the loss is not finite; the message names the step.
        PreemptedError: If a signal asked to stop before the end; the state is saved, and the same
            call goes on from it.
    """
    accelerator = Accelerator(mixed_precision=MIXED_PRECISION[settings.precision])
    tower = linearize(encoder.tower) if settings.mode == "linear" else encoder.tower
    optimizer = torch.optim.AdamW(
        tower.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    model, optimizer = accelerator.prepare(tower, optimizer)
    head, labels = head.to(accelerator.device), labels.to(accelerator.device)

    total = settings.total_steps(len(labels))
    state = TrainingState(tower, optimizer, accelerator, resume_path, fingerprint)
    first_step = state.resume()

    def own_parts(batch: Batch) -> list[Tensor]:
        # Every process of a distributed run takes its own slice of each part of the batch.
        parts = batch.indices.chunk(settings.accumulation)
        return [part[accelerator.process_index :: accelerator.num_processes] for part in parts]

    planned = [first_step, total, settings]
    requests = (
        (batch.epoch, part.numpy())
        for batch in batches(len(labels), *planned)
        for part in own_parts(batch)
    )
    loaded = as_images(images).batches(requests)
    progress = Progress(description, total, "step", done=first_step)
    with progress, stop_requests() as stop:
        for batch in batches(len(labels), *planned):
            started = time.monotonic()
            learning_rate = scheduled_rate(batch.step, total, settings)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            # The loss, the number of correct predictions, and whether a process was asked to stop.
            totals = torch.zeros(3, device=accelerator.device)
            parts = own_parts(batch)
            for i, part in enumerate(parts):
                inputs = torch.from_numpy(next(loaded)).to(accelerator.device)
                part = part.to(accelerator.device)
                with accelerator.autocast():
                    features = model(encoder.preprocess(inputs))
                logits = F.normalize(features.float(), dim=-1) @ head.T
                # A sum over the whole batch: slices and parts need not be of equal size.
                part_loss = F.cross_entropy(
                    logits, labels[part], label_smoothing=settings.label_smoothing, reduction="sum"
                ) / len(batch.indices)
                last = i + 1 == len(parts)
                with nullcontext() if last else accelerator.no_sync(model):
                    # Distributed training averages gradients over processes.
                    accelerator.backward(part_loss * accelerator.num_processes)
                totals[0] += part_loss.detach()
                totals[1] += (logits.argmax(dim=-1) == labels[part]).sum()
            totals[2] += bool(stop)
            # The processes must agree: one that stopped alone would leave the others waiting.
            loss, correct, stopping = accelerator.reduce(totals).tolist()
            if not math.isfinite(loss):
                raise PipelineError(
                    f"{description}: expected a finite loss, found {loss} at step {batch.step + 1} "
                    f"of {total}; lower learning_rate (now {settings.learning_rate:g})"
                )
            norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm)
            optimizer.step()
            optimizer.zero_grad()

            done, seen = batch.step + 1, len(batch.indices)
            state.log.append((done, batch.epoch, learning_rate, loss, correct / seen, float(norm)))
            rate = seen / (time.monotonic() - started)
            progress.advance(1, loss=loss, images_per_second=rate)
            if done < total and (stopping or done % settings.checkpoint_every == 0):
                state.save(done)
            if done < total and stopping:
                raise PreemptedError(
                    f"{description}: stopped by {stop.signal or 'a signal'} after step {done} of "
                    f"{total}, which is saved; run again to go on from there"
                )
    parameters = {name: value.detach().cpu() for name, value in tower.named_parameters()}
    log = pd.DataFrame(state.log, columns=LOG_COLUMNS).astype({"step": int, "epoch": int})
    return parameters, log


def batches(
    examples: int, first_step: int, total_steps: int, settings: FinetuneSettings
) -> Iterator[Batch]:
    """Yield the batches of a training run from a step on.

    The order of an epoch depends on the seed and the epoch alone, so a resumed run sees the same
    batches as an uninterrupted one.

    Args:
        examples: How many training examples there are.
        first_step: The step to start from, counted from zero.
        total_steps: The step to end before.
        settings: The protocol.

    Yields:
        The batches.
    """
    per_epoch = math.ceil(examples / settings.batch_size)
    shuffled_epoch, order = -1, torch.empty(0)
    for step in range(first_step, total_steps):
        epoch, position = divmod(step, per_epoch)
        if epoch != shuffled_epoch:
            # Neighbouring runs must not share orders: seed 0, epoch 1 is not seed 1, epoch 0.
            generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
            shuffled_epoch, order = epoch, torch.randperm(examples, generator=generator)
        start = position * settings.batch_size
        yield Batch(step, epoch, order[start : start + settings.batch_size])


def scheduled_rate(step: int, total_steps: int, settings: FinetuneSettings) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine down to zero.

    Args:
        step: The step, counted from zero.
        total_steps: The number of steps of the run.
        settings: The protocol.

    Returns:
        The learning rate.
    """
    warmup = settings.warmup_steps
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / (total_steps - warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


class TrainingState:
    """What a killed training needs to go on: θ, AdamW's moments, the step and the log."""

    def __init__(
        self,
        tower: nn.Module,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        path: Path,
        fingerprint: str,
    ) -> None:
        self._tower, self._optimizer, self._accelerator = tower, optimizer, accelerator
        self._path, self._fingerprint = path, fingerprint
        self.log: list[tuple[float, ...]] = []

    def save(self, step: int) -> None:
        """Write the state after a number of steps, atomically, over the last one."""
        if not self._accelerator.is_main_process:
            self._accelerator.wait_for_everyone()
            return
        tensors = {"log": torch.tensor(self.log, dtype=torch.float64)}
        for name, parameter in self._tower.named_parameters():
            tensors[f"parameter/{name}"] = parameter
            for key, value in self._moments(parameter).items():
                tensors[f"{key}/{name}"] = value
        scaler = self._accelerator.scaler
        metadata = {
            "kind": "training_state",
            "fingerprint": self._fingerprint,
            "step": str(step),
            "scaler": json.dumps(scaler.state_dict() if scaler else None),
        }
        write_tensors(self._path, tensors, metadata)
        self._accelerator.wait_for_everyone()

    def resume(self) -> int:
        """Restore a state of the same fingerprint if there is one.

        Returns:
            The number of steps already done; 0 to start afresh.
        """
        if not self._path.exists():
            return 0
        try:
            tensors, metadata = read_tensors(self._path, kind="training_state")
        except PipelineError as error:
            logger.warning("starting afresh: %s", error)
            return 0
        if metadata["fingerprint"] != self._fingerprint:
            logger.info("starting afresh: %s belongs to another run", self._path)
            return 0
        self.log = [tuple(row) for row in tensors["log"].tolist()]
        with torch.no_grad():
            for name, parameter in self._tower.named_parameters():
                parameter.copy_(tensors[f"parameter/{name}"])
                moments = {
                    key: tensors[f"{key}/{name}"].to(parameter.device)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
                self._moments(parameter).update(moments)
        if self._accelerator.scaler:
            self._accelerator.scaler.load_state_dict(json.loads(metadata["scaler"]))
        logger.info("resuming after step %s", metadata["step"])
        return int(metadata["step"])

    def _moments(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        # Accelerate wraps the optimizer; its `state` is the inner optimizer's.
        return self._optimizer.state[parameter]
