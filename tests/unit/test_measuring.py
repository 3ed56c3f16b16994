"""Measuring several edits at once, against one model after the other."""

import pytest
import torch

from task_arithmetic.measuring import Bench

ALPHAS = {"first": [0.0, 0.5], "second": [1.0]}


def expected(encoder, vector, alpha, of, tangent):
    """Return the accuracy of one edited model by the textbook."""
    theta = dict(encoder.tower.named_parameters())
    inputs = encoder.preprocess(torch.from_numpy(of.images))

    def output(parameters):
        return torch.func.functional_call(encoder.tower, parameters, inputs)

    with torch.no_grad():
        if tangent:
            f0, jvp = torch.func.jvp(output, (theta,), (dict(vector.items()),))
            features = f0 + alpha * jvp
        else:
            features = output({name: theta[name] + alpha * vector[name] for name in theta})
    return ((features.numpy() @ of.head.T).argmax(axis=1) == of.labels).mean()


@pytest.mark.parametrize("mode", ["nonlinear", "posthoc", "linear"])
def test_every_edit_is_measured_as_if_it_were_alone(world, mode):
    encoder, vectors, examples = world
    before = {name: value.clone() for name, value in encoder.tower.state_dict().items()}
    rows = Bench(encoder, 0, mode, batch_size=8).measure(vectors, ALPHAS, examples)
    assert len(rows) == (2 + 1) * 2
    for row in rows.itertuples():
        of = next(of for of in examples if of.dataset == row.dataset)
        accuracy = expected(encoder, vectors[row.edit], row.alpha, of, mode != "nonlinear")
        assert row.accuracy == pytest.approx(accuracy)
        assert row.total == len(of.labels)
    after = encoder.tower.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
