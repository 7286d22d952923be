"""SGD on scored chunks: steps as torch takes them, flags untouched, the score as by hand."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import evaluate
from baselines.sgd_adapter import sgd_adapter
from evaluate import BOS_ID
from tests.scoring_texts import HOSTILE
from tests.test_evaluate import ISOLATED, SCHEME, Causal, hostile_text, nats_of, stream, table_of


def test_training_on_the_past_helps_with_what_repeats():
    """On repeating text TTT scores better than the fixed model; two blocks and all flags stay."""
    tokens_T = np.tile(stream(50, seed=11), 40)
    model = Causal().eval()
    model.blocks[1].weight.requires_grad_(False)
    fixed = evaluate.score_windows(model, tokens_T, table_of(), SCHEME)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    adapt = sgd_adapter(model, seq_len=16, lr=0.1)
    scheme = replace(SCHEME, chunk_tokens=200)
    score = evaluate.score_first(model, adapt, tokens_T, table_of(), scheme)
    assert score.bpb < 0.9 * fixed.bpb
    changed = {
        name for name, weight in model.state_dict().items() if not weight.equal(before[name])
    }
    frozen = {f"blocks.{i}.{name}" for i in (0, 1) for name in ("weight", "bias")}
    assert changed == set(before) - frozen
    assert not model.training
    flags = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert flags == {"blocks.1.weight"}
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("length", [5, 17, 39])
def test_one_epoch_is_one_clipped_step_on_the_mean_loss(length):
    """The step is that of SGD on the loss of all rows, the short last one included."""
    chunk_T = torch.from_numpy(stream(length, seed=12).astype(np.int64))
    model, twin = Causal(num_blocks=1), Causal(num_blocks=1)
    adapt = sgd_adapter(model, seq_len=16, lr=0.5, epochs=1, freeze_blocks=0)
    adapt(chunk_T, 1, 3)  # halfway down the cosine, so half the rate
    nats = 0.0
    for at in range(0, length - 1, 16):
        row = chunk_T[at : at + 17]
        nats += F.cross_entropy(twin(row[None, :-1])[0], row[1:], reduction="sum")
    (nats / (length - 1)).backward()
    assert nn.utils.clip_grad_norm_(twin.parameters(), 1.0) > 1  # the clip matters here
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter, other - 0.25 * other.grad)
    before = [parameter.clone() for parameter in model.parameters()]
    adapt(chunk_T, 2, 3)  # the end of the cosine
    assert all(p.equal(old) for p, old in zip(model.parameters(), before, strict=True))


def test_momentum_carries_over_and_epochs_repeat():
    """Two epochs, or two chunks, move like torch's SGD with momentum over the same gradients."""
    chunk_T = torch.from_numpy(stream(17, seed=13).astype(np.int64))
    models = [Causal(num_blocks=1) for _ in range(3)]
    rates = {"seq_len": 16, "lr": 0.5, "momentum": 0.8, "freeze_blocks": 0}
    sgd_adapter(models[0], epochs=2, **rates)(chunk_T, 0, 9)
    adapt = sgd_adapter(models[1], epochs=1, **rates)
    for _ in range(2):
        adapt(chunk_T, 0, 9)
    optimizer = torch.optim.SGD(models[2].parameters(), lr=0.5, momentum=0.8)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(models[2](chunk_T[None, :-1])[0], chunk_T[1:]).backward()
        nn.utils.clip_grad_norm_(models[2].parameters(), 1.0)
        optimizer.step()
    for one, two, three in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, two)
        torch.testing.assert_close(one, three)


def test_adapter_without_blocks_to_freeze_is_refused():
    """Freezing by name must not silently freeze nothing."""
    with pytest.raises(ValueError, match="freeze_blocks=2 finds no parameters blocks"):
        sgd_adapter(nn.Linear(2, 2), seq_len=4)


def test_bpb_while_training_by_sgd_equals_an_independent_computation(tokenizers):
    """Windows, chunks, and clipped steps with momentum, all in float64 and target by target."""
    whole_T, table, size_bytes = hostile_text(tokenizers["keep"], HOSTILE)
    model = Causal(table.vocab_size, num_blocks=1).eval()
    exact = copy.deepcopy(model).double()
    chunk = 60
    rates = dict(lr=0.05, momentum=0.9, epochs=2, freeze_blocks=0)
    scheme = replace(ISOLATED, chunk_tokens=chunk)
    adapt = sgd_adapter(model, seq_len=16, **rates)
    score = evaluate.score_first(model, adapt, whole_T, table, scheme)

    ids_T = torch.from_numpy(whole_T.astype(np.int64))
    num_targets = len(whole_T) - 1
    num_chunks = math.ceil(num_targets / chunk)
    momenta = [torch.zeros_like(parameter) for parameter in exact.parameters()]
    nats = 0.0
    for number in range(num_chunks):
        first = number * chunk
        end = min(first + chunk, num_targets)
        for at in range(first, end):
            begin = max(i for i in range(at + 1) if whole_T[i] == BOS_ID)
            moves = max(0, math.ceil((at + 1 - begin - 16) / 4))
            with torch.no_grad():
                logits_V = exact(ids_T[None, begin + 4 * moves : at + 1])[0, -1].numpy()
            nats += nats_of(logits_V, whole_T[at + 1])
        rate = 0.05 * (1 + math.cos(math.pi * number / (num_chunks - 1))) / 2
        for _ in range(2 if end < num_targets else 0):
            loss = 0.0
            for row in range(first, end, 16):
                stop = min(row + 16, end)
                logits_TV = exact(ids_T[None, row:stop])[0]
                loss += F.cross_entropy(logits_TV, ids_T[row + 1 : stop + 1], reduction="sum")
            grads = torch.autograd.grad(loss / (end - first), list(exact.parameters()))
            length = math.sqrt(sum(grad.square().sum().item() for grad in grads))
            for parameter, momentum, grad in zip(exact.parameters(), momenta, grads, strict=True):
                momentum.mul_(0.9).add_(grad * min(1.0, 1 / length))
                parameter.data -= rate * momentum
    assert score.bytes == size_bytes
    assert score.bpb == pytest.approx(nats / math.log(2) / size_bytes, rel=1e-6)
