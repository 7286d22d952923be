"""GPT-2 of 124M parameters: learned positions, LayerNorm before each part, biases, tied embedding.

In training the embedding has 50,304 rows, a multiple of 128; the rows that are no tokens never get
a logit, hence never a gradient, and an export leaves them out. Parameter names are those of the
original, matrices are stored (out, in). The file needs PyTorch alone.

Dimensions: B rows, T new tokens, S all tokens so far, D model_dim, H heads, E head_dim, V rows.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """The shape of one model; the defaults are those of gpt2_124m.

    Raises: ValueError naming the field, its value and the requirement.
    """

    vocab_size: int = 50_257
    seq_len: int = 1024  # positions there are
    num_layers: int = 12
    model_dim: int = 768
    num_heads: int = 12
    is_padded: bool = True  # the embedding has more rows than there are tokens

    def __post_init__(self):
        if self.model_dim % self.num_heads:
            raise ValueError(
                f"model_dim={self.model_dim} must be a multiple of num_heads={self.num_heads}"
            )

    @property
    def embedding_rows(self) -> int:
        return -(-self.vocab_size // 128) * 128 if self.is_padded else self.vocab_size


CONFIGS = {"gpt2_124m": Config()}


class Linear(nn.Linear):
    """A matrix and a bias used in the precision of their input."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class LayerNorm(nn.LayerNorm):
    """Gain and bias used in the precision of their input."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


def visible(T: int, S: int, valid_BS: Tensor | None, device) -> Tensor | None:
    """Mask (1 or B, 1, T, S) of what the last T of S tokens see; None: plain causal.

    A token of padding is seen by itself alone, so that no row of the mask is empty.
    """
    if T == S and valid_BS is None:
        return None
    distance = torch.arange(S - T, S, device=device)[:, None] - torch.arange(S, device=device)
    mask = (distance >= 0)[None, None]
    if valid_BS is not None:
        mask = mask & (valid_BS[:, None, None].bool() | (distance == 0))
    return mask


def positions(T: int, S: int, valid_BS: Tensor | None, device) -> Tensor:
    """Positions (1 or B, T) of the last T of S tokens; padding on the left takes none."""
    if valid_BS is None:
        return torch.arange(S - T, S, device=device)[None]
    return (valid_BS.long().cumsum(dim=1) - 1).clamp(min=0)[:, S - T :]


class Cache:
    """Keys and values of all tokens so far."""

    def __init__(self, config: Config):
        self.layers: list[tuple[Tensor, Tensor] | None] = [None] * config.num_layers

    def get_seq_length(self) -> int:
        """Tokens so far."""
        return 0 if self.layers[0] is None else self.layers[0][0].size(2)

    def update(self, k_BHTE: Tensor, v_BHTE: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Take in new keys and values; returns all so far."""
        new = k_BHTE, v_BHTE
        if past := self.layers[layer]:
            new = tuple(torch.cat(pair, dim=2) for pair in zip(past, new, strict=True))
        self.layers[layer] = new
        return new

    def reorder_cache(self, rows_B: Tensor) -> None:
        """Row i goes on from what row rows_B[i] was, as in beam search."""
        self.layers = [tuple(x[rows_B] for x in pair) for pair in self.layers]


class Attention(nn.Module):
    def __init__(self, config: Config, layer: int):
        super().__init__()
        self.layer, self.H = layer, config.num_heads
        self.c_attn = Linear(config.model_dim, 3 * config.model_dim)  # q, k, v
        self.c_proj = Linear(config.model_dim, config.model_dim)

    def forward(self, x: Tensor, mask: Tensor | None, cache) -> Tensor:
        B, T, D = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3, self.H, D // self.H).permute(2, 0, 3, 1, 4)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)  # (B, H, S, E)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, D))


class MLP(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.c_fc = Linear(config.model_dim, 4 * config.model_dim)
        self.c_proj = Linear(4 * config.model_dim, config.model_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config: Config, layer: int):
        super().__init__()
        self.ln_1 = LayerNorm(config.model_dim)
        self.attn = Attention(config, layer)
        self.ln_2 = LayerNorm(config.model_dim)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, mask: Tensor | None, cache) -> Tensor:
        x = x + self.attn(self.ln_1(x), mask, cache)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """tokens_BT -> logits in fp32, for the tokens there are."""

    def __init__(self, config: Config, compute_dtype: torch.dtype = torch.float32):
        super().__init__()
        self.config, self.compute_dtype = config, compute_dtype
        self.wte = nn.Embedding(config.embedding_rows, config.model_dim)
        self.wpe = nn.Embedding(config.seq_len, config.model_dim)
        self.h = nn.ModuleList(Block(config, i) for i in range(config.num_layers))
        self.ln_f = LayerNorm(config.model_dim)

    def forward(self, tokens_BT: Tensor, cache=None, valid_BS=None, keep: int = 0) -> Tensor:
        """Logits of the new tokens, or of the last `keep` of them.

        The cache, if any, holds what came before and takes in what is new. valid_BS is false where
        there is padding, among the tokens in the cache too; it may stand on the left only.

        Raises: ValueError beyond the positions there are.
        """
        T = tokens_BT.size(1)
        S = T + (0 if cache is None else cache.get_seq_length())
        if S > self.config.seq_len:
            raise ValueError(f"{S} tokens are more than the {self.config.seq_len} positions")
        x = self.wte(tokens_BT) + self.wpe(positions(T, S, valid_BS, tokens_BT.device))
        x = x.to(self.compute_dtype)  # (B, T, D)
        mask = visible(T, S, valid_BS, x.device)
        for block in self.h:
            x = block(x, mask, cache)
        x = self.ln_f(x)[:, -keep:]
        logits = F.linear(x, self.wte.weight[: self.config.vocab_size].to(x.dtype))  # (B, T, V)
        return logits.to(torch.promote_types(x.dtype, torch.float32))

    def loss(self, tokens_BT: Tensor) -> Tensor:
        """Cross-entropy in nats, summed over the T - 1 targets of every row."""
        logits = self(tokens_BT[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction="sum")

    @torch.no_grad()
    def init_weights(self, seed: int) -> "GPT":
        """Set every parameter; drawn on the CPU, so that every device starts from the same.

        Matrices and embeddings normal(0.02), those that write into the residual stream divided by
        sqrt(2L); biases 0, gains 1; rows of the embedding that are no tokens 0.
        """
        rng = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            match name.split(".")[-2:]:
                case [_, "bias"]:
                    p.zero_()
                case ["ln_1" | "ln_2" | "ln_f", "weight"]:
                    p.fill_(1.0)
                case ["c_proj", "weight"]:
                    p.normal_(std=0.02 * (2 * len(self.h)) ** -0.5, generator=rng)
                case _:
                    p.normal_(std=0.02, generator=rng)
        self.wte.weight[self.config.vocab_size :] = 0
        return self

    def flops_per_token(self, T: int) -> int:
        """Forward and backward: 6 a parameter, embeddings and padding included, and 6*L*D*T.

        Source: llm.c's convention.
        """
        parameters = sum(p.numel() for p in self.parameters())
        return 6 * parameters + 6 * self.config.num_layers * self.config.model_dim * T
