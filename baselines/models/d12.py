"""A nanochat-style GPT of depth 12, with a GELU or a YatNMN-Softplus MLP.

Beyond a textbook GPT: RMSNorm without gain; RoPE, then q and k normed and times 1.2; most layers
see a window of a quarter of the context; every other layer adds a gated embedding of the token to
its values; each layer mixes in the first embedding by two learned numbers; embeddings are smeared
with the token before; what the middle layer holds is taken off the end; logits are softcapped.
No Linear has a bias, and the head is the embedding.

The file needs PyTorch alone. The published model is the same in transformers' terms
(tools/hub/remote_code), and is proven equal to this one.

Dimensions: B rows, T new tokens, S all tokens so far, D model_dim, H query heads, G key/value
heads, E head_dim, F MLP width, V embedding rows.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMEAR_CHANNELS = 24  # of the embedding that the smear gate reads
VALUE_GATE_CHANNELS = 12  # of the attention input that a value gate reads


@dataclass(frozen=True)
class Config:
    """The shape of one model; the defaults are those of gelu_d12.

    Raises: ValueError naming the field, its value and the requirement.
    """

    vocab_size: int = 32_768
    seq_len: int = 1024  # tokens in training; the longest window
    num_layers: int = 12
    model_dim: int = 768
    num_heads: int = 12
    num_kv_heads: int = 12
    mlp: str = "gelu"  # or "yat": one bias for a layer; or "yat_neuron": one for each neuron
    tied: bool = True  # the head is the embedding
    embed_init_std: float = 0.02  # nanochat's 0.8 is for an untied head; tied, it saturates logits
    rope_base: float = 100_000.0
    logit_softcap: float = 15.0

    def __post_init__(self):
        def require(ok: bool, field: str, requirement: str) -> None:
            if not ok:
                raise ValueError(f"{field}={getattr(self, field)!r} must be {requirement}")

        heads = self.num_heads
        require(self.mlp in ("gelu", "yat", "yat_neuron"), "mlp", "gelu, yat or yat_neuron")
        require(
            self.model_dim % (2 * heads) == 0, "model_dim", f"a multiple of 2*num_heads={2 * heads}"
        )
        require(self.model_dim >= SMEAR_CHANNELS, "model_dim", f"at least {SMEAR_CHANNELS}")
        require(heads % self.num_kv_heads == 0, "num_kv_heads", f"a divisor of num_heads={heads}")

    @property
    def embedding_rows(self) -> int:
        """Rows of the tables: the vocabulary, rounded up to a multiple of 64."""
        return -(-self.vocab_size // 64) * 64

    @property
    def head_dim(self) -> int:
        return self.model_dim // self.num_heads

    @property
    def windows(self) -> tuple[int, ...]:
        """How many earlier tokens each layer sees: short, short, short, long; the last is long."""
        long, last = self.seq_len, self.num_layers - 1
        quarter = -(-long // 4)
        short = -(-quarter // 128) * 128
        return tuple(long if i % 4 == 3 or i == last else short for i in range(last + 1))

    def has_value_embedding(self, layer: int) -> bool:
        """Every other layer, the last one always."""
        return layer % 2 == (self.num_layers - 1) % 2


CONFIGS = {
    "gelu_d12": Config(),
    "yat_d12": Config(mlp="yat"),
    "yat_neuron_d12": Config(mlp="yat_neuron"),
}


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),), eps=1e-6)


class Linear(nn.Linear):
    """A matrix used in the precision of its input; no bias."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


def rotary_angles(first: int, T: int, config: Config, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of shape (T, E/2) for T positions from the first on."""
    E = config.head_dim
    channel = torch.arange(0, E, 2, device=like.device, dtype=torch.float32)
    position = torch.arange(first, first + T, device=like.device, dtype=torch.float32)
    angles = torch.outer(position, config.rope_base ** -(channel / E))
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x_BHTE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the halves of each head by minus their angle (a textbook's RoPE turns by plus it)."""
    a, b = x_BHTE.chunk(2, dim=-1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)


def visible(T: int, S: int, window: int, valid_BS: Tensor | None, device) -> Tensor | None:
    """Mask (1 or B, 1, T, S) of what the last T of S tokens see: the window before, and themselves.

    A token of padding is seen by itself alone, so that no row of the mask is empty. None where the
    mask is that of plain causal attention.
    """
    if T == S <= window + 1 and valid_BS is None:
        return None
    distance = torch.arange(S - T, S, device=device)[:, None] - torch.arange(S, device=device)
    mask = ((distance >= 0) & (distance <= window))[None, None]
    if valid_BS is not None:
        mask = mask & (valid_BS[:, None, None].bool() | (distance == 0))
    return mask


class Cache:
    """Keys and values in each layer's window, and all tokens so far: smear needs the last one."""

    def __init__(self, config: Config):
        self.windows = config.windows
        self.layers: list[tuple[Tensor, Tensor] | None] = [None] * config.num_layers
        self.tokens_BS: Tensor | None = None

    def get_seq_length(self) -> int:
        """Tokens so far."""
        return 0 if self.tokens_BS is None else self.tokens_BS.size(1)

    def see(self, tokens_BT: Tensor) -> Tensor:
        """Take in new tokens; returns tokens_BS, all so far."""
        past = [] if self.tokens_BS is None else [self.tokens_BS]
        self.tokens_BS = torch.cat([*past, tokens_BT], dim=1)
        return self.tokens_BS

    def update(self, k_BGTE: Tensor, v_BGTE: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the window before the new ones, and the new ones."""
        new = k_BGTE, v_BGTE
        if past := self.layers[layer]:
            new = tuple(torch.cat(pair, dim=2) for pair in zip(past, new, strict=True))
        self.layers[layer] = tuple(x[:, :, -self.windows[layer] :] for x in new)
        return new

    def reorder_cache(self, rows_B: Tensor) -> None:
        """Row i goes on from what row rows_B[i] was, as in beam search."""
        self.tokens_BS = self.tokens_BS[rows_B]
        self.layers = [tuple(x[rows_B] for x in pair) for pair in self.layers]


class Attention(nn.Module):
    """Causal grouped-query attention; q and k are rotated, normed and lengthened by 1.2."""

    def __init__(self, config: Config, layer: int):
        super().__init__()
        self.layer = layer
        self.H, self.G, self.E = config.num_heads, config.num_kv_heads, config.head_dim
        self.c_q = Linear(config.model_dim, self.H * self.E)
        self.c_k = Linear(config.model_dim, self.G * self.E)
        self.c_v = Linear(config.model_dim, self.G * self.E)
        self.c_proj = Linear(self.H * self.E, config.model_dim)
        if config.has_value_embedding(layer):
            self.ve_gate = Linear(VALUE_GATE_CHANNELS, self.G)

    def forward(self, x, value_embedding, angles, mask, cache) -> Tensor:
        B, T, _ = x.shape
        q = self.c_q(x).view(B, T, self.H, self.E).transpose(1, 2)  # (B, H, T, E)
        k = self.c_k(x).view(B, T, self.G, self.E).transpose(1, 2)
        v = self.c_v(x).view(B, T, self.G, self.E)
        if value_embedding is not None:
            gate = 3 * torch.sigmoid(self.ve_gate(x[..., :VALUE_GATE_CHANNELS]))  # (B, T, G)
            v = v + gate[..., None] * value_embedding.view(B, T, self.G, self.E)
        v = v.transpose(1, 2)
        q, k = (1.2 * norm(rotate(part, *angles)) for part in (q, k))
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        if mask is not None:
            mask = mask[..., -k.size(2) :]  # a cache keeps no more than the window
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=self.G < self.H
        )
        return self.c_proj(y.transpose(1, 2).reshape(B, T, self.H * self.E))


class Yat(nn.Module):
    """alpha * (x.w + softplus(b))**2 / (|x - w|**2 + softplus(e)) for each column w of the kernel.

    In fp32 whatever the input's precision: the distance is a small difference of large numbers, and
    in bf16 the quotient would be off by up to 0.7 of itself.
    """

    def __init__(self, in_features: int, out_features: int, biases: int):
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.empty(biases))
        self.epsilon_param = nn.Parameter(torch.empty(1))
        self.alpha = nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            w, bias = self.kernel.to(wide), F.softplus(self.bias.to(wide))
            wide_x, epsilon = x.to(wide), F.softplus(self.epsilon_param.to(wide))
            dot = wide_x @ w
            squares = wide_x.square().sum(dim=-1, keepdim=True) + w.square().sum(dim=0)
            distance = (squares - 2 * dot).clamp(min=0)
            y = self.alpha.to(wide) * (dot + bias).square() / (distance + epsilon)
        return y.to(x.dtype)


class MLP(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        D = config.model_dim
        self.is_gelu = config.mlp == "gelu"
        biases = 4 * D if config.mlp == "yat_neuron" else 1
        self.c_fc = Linear(D, 4 * D) if self.is_gelu else Yat(D, 4 * D, biases)
        self.c_proj = Linear(4 * D, D)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)  # (B, T, F)
        return self.c_proj(F.gelu(x, approximate="tanh") if self.is_gelu else x)


class Block(nn.Module):
    def __init__(self, config: Config, layer: int):
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x, value_embedding, angles, mask, cache) -> Tensor:
        x = x + self.attn(norm(x), value_embedding, angles, mask, cache)
        return x + self.mlp(norm(x))


class GPT(nn.Module):
    """tokens_BT -> softcapped logits in fp32; padding rows of the tables are no tokens."""

    def __init__(self, config: Config, compute_dtype: torch.dtype = torch.float32):
        super().__init__()
        self.config, self.compute_dtype = config, compute_dtype
        V, D, L = config.embedding_rows, config.model_dim, config.num_layers
        value_layers = [i for i in range(L) if config.has_value_embedding(i)]
        self.wte = nn.Embedding(V, D)
        self.value_embeds = nn.ModuleDict(
            {str(i): nn.Embedding(V, config.num_kv_heads * config.head_dim) for i in value_layers}
        )
        self.smear_gate = Linear(SMEAR_CHANNELS, 1)
        self.smear_lambda = nn.Parameter(torch.empty(1))
        self.resid_lambdas = nn.Parameter(torch.empty(L))
        self.x0_lambdas = nn.Parameter(torch.empty(L))
        self.backout_lambda = nn.Parameter(torch.empty(1))
        self.blocks = nn.ModuleList(Block(config, i) for i in range(L))
        if not config.tied:
            self.lm_head = Linear(D, V)

    def embed(self, tokens_BS: Tensor, T: int, valid_BS: Tensor | None) -> Tensor:
        """Normed embeddings of the last T tokens, each with a gated share of the one before it.

        A share is of the embedding as looked up. The first token, and one after padding, has none.
        """
        x = norm(self.wte(tokens_BS[:, -(T + 1) :]).to(self.compute_dtype))
        if tokens_BS.size(1) == T:
            x = F.pad(x, (0, 0, 1, 0))  # nothing is before the first token
        x, before = x[:, 1:], x[:, :-1]
        if valid_BS is not None:
            before = before * F.pad(valid_BS, (1, 0))[:, -(T + 1) : -1, None].to(x.dtype)
        gate = torch.sigmoid(self.smear_gate(x[..., :SMEAR_CHANNELS]))  # (B, T, 1)
        return x + self.smear_lambda.to(x.dtype) * gate * before

    def forward(self, tokens_BT: Tensor, cache=None, valid_BS=None, keep: int = 0) -> Tensor:
        """Logits of the new tokens, or of the last `keep` of them.

        The cache, if any, holds what came before and takes in what is new. valid_BS is false where
        there is padding, among the tokens in the cache too; it may stand on the left only.
        """
        T = tokens_BT.size(1)
        past = 0 if cache is None else cache.get_seq_length()
        seen_BS = tokens_BT if cache is None else cache.see(tokens_BT)
        x0 = x = self.embed(seen_BS, T, valid_BS)  # (B, T, D)
        angles = rotary_angles(past, T, self.config, x)
        windows = self.config.windows
        masks = {w: visible(T, past + T, w, valid_BS, x.device) for w in set(windows)}
        resid_lambdas, x0_lambdas = self.resid_lambdas.to(x.dtype), self.x0_lambdas.to(x.dtype)
        for i, block in enumerate(self.blocks):
            table = self.value_embeds[str(i)] if str(i) in self.value_embeds else None
            value_embedding = None if table is None else table(tokens_BT).to(x.dtype)
            x = resid_lambdas[i] * x + x0_lambdas[i] * x0
            x = block(x, value_embedding, angles, masks[windows[i]], cache)
            if i == len(self.blocks) // 2:
                middle = x
        x = norm(x - self.backout_lambda.to(x.dtype) * middle)[:, -keep:]
        head = (self.wte if self.config.tied else self.lm_head).weight[: self.config.vocab_size]
        logits = F.linear(x, head.to(x.dtype))  # (B, T, V)
        logits = logits.to(torch.promote_types(x.dtype, torch.float32))
        return self.config.logit_softcap * torch.tanh(logits / self.config.logit_softcap)

    def loss(self, tokens_BT: Tensor) -> Tensor:
        """Cross-entropy in nats, summed over the T - 1 targets of every row."""
        logits = self(tokens_BT[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction="sum")

    @torch.no_grad()
    def init_parameter(self, name: str, p: Tensor, rng: torch.Generator | None = None) -> None:
        """Set one parameter to its initial values.

        What writes into the residual stream is zero, so every layer begins as the identity.

        Raises: AssertionError for a parameter that has no rule.
        """
        bound, L = math.sqrt(3 / self.config.model_dim), self.config.num_layers
        match name.split(".")[0], name.removesuffix(".weight").split(".")[-1]:
            case "wte", _:
                p.normal_(std=self.config.embed_init_std, generator=rng)
            case "lm_head", _:
                p.normal_(std=0.001, generator=rng)
            case ("value_embeds", _) | (_, "c_q" | "c_k" | "c_v"):
                p.uniform_(-bound, bound, generator=rng)
            case _, "c_fc":
                p.uniform_(-0.4 * bound, 0.4 * bound, generator=rng)
            case _, "kernel":
                p.normal_(std=math.sqrt(2 / sum(p.shape)), generator=rng)
            case _, "ve_gate" | "smear_gate":
                p.uniform_(0, 0.02, generator=rng)
            case _, "c_proj" | "bias" | "smear_lambda":
                p.zero_()
            case _, "epsilon_param":
                p.fill_(math.log(math.expm1(0.001)))  # softplus gives 0.001
            case _, "alpha":
                p.fill_(1.0)
            case _, "resid_lambdas":
                p.copy_(torch.linspace(1.15, 1.05 if L > 1 else 1.15, L))
            case _, "x0_lambdas":
                p.copy_(torch.linspace(0.20, 0.05 if L > 1 else 0.20, L))
            case _, "backout_lambda":
                p.fill_(0.2)
            case _:
                raise AssertionError(f"init_parameter has no rule for {name}")

    def init_weights(self, seed: int) -> "GPT":
        """Set every parameter; drawn on the CPU, so that every device starts from the same."""
        rng = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            self.init_parameter(name, p, rng)
        return self

    def flops_per_token(self, T: int) -> int:
        """Forward and backward: 6 a parameter, embeddings included, and 6*L*D*T.

        Half of these parameters are tables that are looked up, so this is twice what is computed;
        see product_flops_per_token. Source: llm.c's convention.
        """
        parameters = sum(p.numel() for p in self.parameters())
        return 6 * parameters + 6 * self.config.num_layers * self.config.model_dim * T

    def product_flops_per_token(self, T: int) -> int:
        """Forward and backward: 6 a weight of every product, 12*D*min(window, T) a layer.

        Source: nanochat's convention, with the tied head counted once.
        """
        tables = {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)}
        if self.config.tied:
            tables.remove(id(self.wte.weight))
        products = sum(p.numel() for p in self.parameters() if p.ndim > 1 and id(p) not in tables)
        seen = sum(min(window, T) for window in self.config.windows)
        return 6 * products + 12 * self.config.model_dim * seen
