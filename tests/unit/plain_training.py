"""The plain AdamW loop that fine-tuning is compared with."""

from torch import nn, optim
from torch.nn import functional as F

from task_arithmetic.finetune import batches, scheduled_rate


def train_plainly(tower, output, problem, settings, steps=None, sign=1):
    """Train a tower in place.

    Args:
        tower: The module whose parameters are trained.
        output: The features as a function of prepared images.
        problem: Encoder, head, images and labels, of which the encoder prepares images only.
        settings: The protocol; its schedule is that of all its steps.
        steps: The number of steps taken; None for all of the protocol's.
        sign: -1 climbs the loss.
    """
    encoder, head, images, labels = problem
    optimizer = optim.AdamW(
        tower.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    for batch in batches(len(labels), 0, steps or settings.steps, settings):
        for group in optimizer.param_groups:
            group["lr"] = scheduled_rate(batch.step, settings.steps, settings)
        features = output(encoder.preprocess(images[batch.indices]))
        logits = F.normalize(features, dim=-1) @ head.T
        loss = F.cross_entropy(
            logits, labels[batch.indices], label_smoothing=settings.label_smoothing
        )
        optimizer.zero_grad()
        (sign * loss).backward()
        nn.utils.clip_grad_norm_(tower.parameters(), settings.clip_norm)
        optimizer.step()
