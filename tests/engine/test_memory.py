"""A model with a memory reads a document in parts as it would in one piece, and no further back."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from engine.memory import Memory

VOCAB = 32
WINDOW = 5


class Remembering(nn.Module):
    """Two layers of attention and MLP that take a memory; embeddings look at the token before."""

    takes_memory = True

    def __init__(self, vocab=VOCAB, dim=8, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.tok_emb = nn.Embedding(vocab, dim)
        self.layers = nn.ModuleList()
        for _ in range(2):
            matrices = {name: nn.Linear(dim, dim, bias=False) for name in ("q", "k", "v", "fc")}
            self.layers.append(nn.ModuleDict(matrices))
        self.head = nn.Linear(dim, vocab)

    def logits_at(self, tokens_BT, place_S, memory):
        T = tokens_BT.size(1)
        recent_BT = memory.recall(tokens_BT)
        x = self.tok_emb(recent_BT)
        x[:, 1:] = x[:, 1:] + 0.5 * self.tok_emb(recent_BT[:, :-1])
        place_T = torch.arange(memory.position - T, memory.position)
        x = x[:, -T:] + 0.1 * place_T[:, None].to(x.dtype).sin()
        for layer in self.layers:
            q, k, v = (layer[name](x)[:, None] for name in ("q", "k", "v"))
            x = x + memory.attend(layer, q, k, v)[:, 0]
            x = x + layer["fc"](x).tanh()
        return 3 * self.head(x).flatten(0, 1)[place_S]


def reference_logits(model: Remembering, tokens_T: np.ndarray, window: int) -> np.ndarray:
    """The same model in float64, token by token and by hand, over one document (inputs)."""
    weights = {name: w.double().detach().numpy() for name, w in model.state_dict().items()}
    table = weights["tok_emb.weight"]
    x = table[tokens_T] + 0.1 * np.sin(np.arange(len(tokens_T)))[:, None]
    x[1:] += 0.5 * table[tokens_T[:-1]]
    for number in range(2):
        q, k, v = (x @ weights[f"layers.{number}.{name}.weight"].T for name in ("q", "k", "v"))
        for i in range(len(tokens_T)):
            seen = slice(max(0, i - window + 1), i + 1)
            scores = k[seen] @ q[i] / math.sqrt(len(q[i]))
            share = np.exp(scores - scores.max())
            x[i] += share @ v[seen] / share.sum()
        x += np.tanh(x @ weights[f"layers.{number}.fc.weight"].T)
    return 3 * (x @ weights["head.weight"].T + weights["head.bias"])


def read(model: nn.Module, tokens_BT: torch.Tensor, parts: list[int], window=WINDOW):
    """logits_BTV of rows that are read in parts."""
    memory = Memory(window)
    outputs = []
    for part_BT in tokens_BT.split(parts, dim=1):
        places = torch.arange(part_BT.numel())
        outputs.append(model.logits_at(part_BT, places, memory).unflatten(0, part_BT.shape))
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("window", [1, 2, 5, 40])
@pytest.mark.parametrize("parts", [[23], [1] * 23, [5, 5, 5, 5, 3], [2, 20, 1]])
def test_parts_of_a_document_are_read_as_one(window, parts):
    """Whatever the parts, logits are those of a loop in float64 over what each token may see."""
    model = Remembering()
    tokens_BT = torch.randint(VOCAB, (2, 23), generator=torch.Generator().manual_seed(1))
    logits_BTV = read(model, tokens_BT, parts, window).detach().numpy()
    for row in range(2):
        expected_TV = reference_logits(model, tokens_BT[row].numpy(), window)
        np.testing.assert_allclose(logits_BTV[row], expected_TV, atol=2e-5)


def test_a_layer_sees_the_window_and_two_layers_twice_as_far():
    """A changed token moves the logits of as many tokens as the layers reach, and no other."""
    model = Remembering()
    tokens_BT = torch.randint(VOCAB, (1, 23), generator=torch.Generator().manual_seed(2))
    changed_BT = tokens_BT.clone()
    changed_BT[0, 6] = (changed_BT[0, 6] + 1) % VOCAB
    parts = [4, 4, 4, 4, 4, 3]
    moved_TV = (read(model, changed_BT, parts) - read(model, tokens_BT, parts))[0].abs()
    moved = moved_TV.amax(dim=1).nonzero()[:, 0].tolist()
    # Token 7 has token 6 in its embedding, and each of two layers reaches 4 further.
    assert moved == list(range(6, 7 + 2 * (WINDOW - 1) + 1))


def test_rows_that_have_ended_drop_out():
    """The rows that go on read as if they had been alone."""
    model = Remembering()
    tokens_BT = torch.randint(VOCAB, (3, 12), generator=torch.Generator().manual_seed(3))
    memory = Memory(WINDOW)
    model.logits_at(tokens_BT[:, :6], torch.arange(18), memory)
    together = model.logits_at(tokens_BT[:2, 6:], torch.arange(12), memory)
    alone = read(model, tokens_BT[:2], [6, 6])[:, 6:].flatten(0, 1)
    torch.testing.assert_close(together, alone)


def test_what_is_kept_has_no_gradient_and_the_length_of_the_window():
    """No step of learning reaches an earlier part, and a long document takes no more memory."""
    model = Remembering()
    memory = Memory(WINDOW)
    for _ in range(4):
        model.logits_at(torch.ones(1, 7, dtype=torch.long), torch.arange(7), memory)
    assert memory.position == 28
    assert len(memory.kept) == 2
    for keys, values in memory.kept.values():
        assert keys.shape == values.shape == (1, 1, WINDOW - 1, 8)
        assert not keys.requires_grad
        assert not values.requires_grad
