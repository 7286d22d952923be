"""A pre-LN GPT of 53M parameters, 34M with the head tied to the embedding; it can be distilled.

The block is GPT-2's with another GELU (the exact one), dropout in training, other names and no
rows without a token. The file needs PyTorch alone, and its parameter names are those of the
published model.

Dropout acts in `loss` while the module is in training mode; `forward`, which is what is scored,
applies it only when asked to.

Dimensions: B rows, T new tokens, S all tokens so far, D model_dim, H heads, E head_dim, V tokens.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """The shape of one model; the defaults are those of preln_53m, tied.

    Raises: ValueError naming the field, its value and the requirement.
    """

    vocab_size: int = 50_257
    seq_len: int = 512  # positions there are
    num_layers: int = 8
    model_dim: int = 384
    num_heads: int = 8
    dropout: float = 0.1
    tied: bool = True  # the head is the embedding

    def __post_init__(self):
        if self.model_dim % self.num_heads:
            raise ValueError(
                f"model_dim={self.model_dim} must be a multiple of num_heads={self.num_heads}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be at least 0 and below 1")


CONFIGS = {"preln_53m": Config(), "preln_53m_untied": Config(tied=False)}


class Linear(nn.Linear):
    """A matrix and its bias, if it has one, used in the precision of their input."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


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
        self.qkv_proj = Linear(config.model_dim, 3 * config.model_dim)
        self.out_proj = Linear(config.model_dim, config.model_dim)

    def forward(self, x: Tensor, mask: Tensor | None, cache, dropout: float) -> Tensor:
        B, T, D = x.shape
        q, k, v = self.qkv_proj(x).view(B, T, 3, self.H, D // self.H).permute(2, 0, 3, 1, 4)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)  # (B, H, S, E)
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, dropout_p=dropout
        )
        return self.out_proj(y.transpose(1, 2).reshape(B, T, D))


class FeedForward(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.fc1 = Linear(config.model_dim, 4 * config.model_dim)
        self.fc2 = Linear(4 * config.model_dim, config.model_dim)

    def forward(self, x: Tensor, dropout: float) -> Tensor:
        return self.fc2(F.dropout(F.gelu(self.fc1(x)), dropout))


class Block(nn.Module):
    def __init__(self, config: Config, layer: int):
        super().__init__()
        self.ln1 = LayerNorm(config.model_dim)
        self.attn = Attention(config, layer)
        self.ln2 = LayerNorm(config.model_dim)
        self.ff = FeedForward(config)

    def forward(self, x: Tensor, mask: Tensor | None, cache, dropout: float) -> Tensor:
        x = x + F.dropout(self.attn(self.ln1(x), mask, cache, dropout), dropout)
        return x + F.dropout(self.ff(self.ln2(x), dropout), dropout)


class GPT(nn.Module):
    """tokens_BT -> logits_BTV in fp32."""

    def __init__(self, config: Config, compute_dtype: torch.dtype = torch.float32):
        super().__init__()
        self.config, self.compute_dtype = config, compute_dtype
        self.token_embedding = nn.Embedding(config.vocab_size, config.model_dim)
        self.position_embedding = nn.Embedding(config.seq_len, config.model_dim)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.num_layers))
        self.ln_f = LayerNorm(config.model_dim)
        if not config.tied:
            self.lm_head = Linear(config.model_dim, config.vocab_size, bias=False)

    def hidden(
        self, tokens_BT: Tensor, cache=None, valid_BS=None, keep: int = 0, dropout: float = 0.0
    ) -> Tensor:
        """What the head reads at the new tokens, or at the last `keep` of them.

        The cache, if any, holds what came before and takes in what is new. valid_BS is false where
        there is padding, among the tokens in the cache too; it may stand on the left only.

        Raises: ValueError beyond the positions there are.
        """
        T = tokens_BT.size(1)
        S = T + (0 if cache is None else cache.get_seq_length())
        if S > self.config.seq_len:
            raise ValueError(f"{S} tokens are more than the {self.config.seq_len} positions")
        x = self.token_embedding(tokens_BT)
        x = x + self.position_embedding(positions(T, S, valid_BS, tokens_BT.device))
        x = F.dropout(x.to(self.compute_dtype), dropout)  # (B, T, D)
        mask = visible(T, S, valid_BS, x.device)
        for block in self.blocks:
            x = block(x, mask, cache, dropout)
        return self.ln_f(x)[:, -keep:]

    def forward(self, tokens_BT: Tensor, **options) -> Tensor:
        """Logits where `hidden` has its values; how: the keywords of `hidden`."""
        x = self.hidden(tokens_BT, **options)
        head = self.token_embedding if self.config.tied else self.lm_head
        logits = F.linear(x, head.weight.to(x.dtype))  # (B, T, V)
        return logits.to(torch.promote_types(x.dtype, torch.float32))

    def training_logits(self, tokens_BT: Tensor) -> Tensor:
        """Logits with dropout, while the module is in training mode."""
        return self(tokens_BT, dropout=self.config.dropout if self.training else 0.0)

    def loss(self, tokens_BT: Tensor) -> Tensor:
        """Cross-entropy in nats, summed over the T - 1 targets of every row."""
        logits = self.training_logits(tokens_BT[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction="sum")

    @torch.no_grad()
    def init_parameter(self, name: str, p: Tensor, rng: torch.Generator | None = None) -> None:
        """Set one parameter to its initial values: normal(0.02), biases 0, gains 1."""
        if name.endswith(".bias"):
            p.zero_()
        elif name.split(".")[-2] in ("ln1", "ln2", "ln_f"):
            p.fill_(1.0)
        else:
            p.normal_(std=0.02, generator=rng)

    def init_weights(self, seed: int) -> "GPT":
        """Set every parameter; drawn on the CPU, so that every device starts from the same."""
        rng = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            self.init_parameter(name, p, rng)
        return self

    def flops_per_token(self, T: int) -> int:
        """Forward and backward: 6 a parameter, embeddings included, and 6*L*D*T.

        Source: llm.c's convention.
        """
        parameters = sum(p.numel() for p in self.parameters())
        return 6 * parameters + 6 * self.config.num_layers * self.config.model_dim * T
