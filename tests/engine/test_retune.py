"""Training what stands beside the points of an artifact."""

import torch

import quantize
from engine.retune import Retuning
from tests.codec.test_gptq import gaussian


class Pieces(torch.nn.Module):
    """A matrix for the trellis, one for rows on a grid, and a gain."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(gaussian(16, 16))
        self.gain = torch.nn.Parameter(gaussian(16, seed=1))


def test_factor_and_gain_find_what_the_loss_asks_for():
    """The matrix can be scaled, and in no other way changed; a tensor of fp16 takes any value."""
    model = Pieces()
    blob = quantize.encode_trellis(dict(model.named_parameters()), {"w": torch.eye(16)}, {}, 900)
    rounded = quantize.decode(blob)[0]["w"]
    retuning = Retuning(model, blob)
    assert torch.equal(model.w, rounded)
    wanted_w = 1.1 * rounded + 0.2 * gaussian(16, 16, seed=2)
    wanted_gain = gaussian(16, seed=1) + 0.1
    for i in range(200):
        loss = (model.w - wanted_w).square().sum() + (model.gain - wanted_gain).square().sum()
        loss.backward()
        norm = retuning.step(i, i / 200)
        assert norm > 0 and model.w.grad is None
    best = (wanted_w * rounded).sum() / rounded.square().sum()
    assert abs(best - 1) > 0.05
    torch.testing.assert_close(model.w.detach(), best * rounded, rtol=1e-3, atol=1e-3)
    artifact = retuning.artifact()
    decoded, _ = quantize.decode(artifact)
    torch.testing.assert_close(decoded["w"], model.w.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(decoded["gain"], wanted_gain, rtol=1e-3, atol=1e-3)
    assert abs(len(artifact) - len(blob)) < 16


def test_rows_on_a_grid_stay_as_they_are():
    """An artifact without points has no factor; its fp16 tensors are trained all the same."""
    model = Pieces()
    weights = dict(model.named_parameters())
    blob = quantize.encode(
        weights, (quantize.PlanRow("w", 5, 2.5), quantize.PlanRow("gain", 16)), {}
    )
    before, _ = quantize.decode(blob)
    retuning = Retuning(model, blob)
    (model.w.sum() + model.gain.sum()).backward()
    retuning.step(0, 0.0)
    after, _ = quantize.decode(retuning.artifact())
    assert torch.equal(after["w"], before["w"])
    assert (after["gain"] < before["gain"]).all()
