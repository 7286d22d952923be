"""pr334: upstream pull request #334, as published but for its faults. Frozen.

    torchrun --standalone --nproc_per_node=8 -m baselines.pr334

11 layers of width 512, 26,666,073 parameters; Muon for matrices and Adam for the rest; EMA and SWA;
U-Net skips; int5 rows and zstd-22 under 16,000,000 bytes; windows of stride 64; test-time training
by SGD on scored chunks. Its faults are mended: every parameter learns, nothing is mixed across a
document start, the step is compiled, the artifact is under the cap by construction, and validation
text is read once, after everything is decided.

train_gpt.py began as a copy of this file and moves on. What is the same by definition (norms,
rotation, Muon) is imported from there; what this recipe chooses stands here, and tests hold its
first twenty losses and its artifact's bytes.

Dimensions: B rows, T tokens, D model_dim, H query heads, G key/value heads, E head_dim,
V vocabulary.
"""

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import evaluate
import quantize
from baselines.sgd_adapter import sgd_adapter
from engine.ranks import Ranks
from engine.recipe import Budget, MeasureHessians, Recipe, State
from engine.settings import MINI_TRACK, Checked, RunSettings
from engine.trainer import train
from train_gpt import Linear, Muon, causal_attention, norm, rotary_angles, rotate

# Settings -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape(Checked):
    """What the model is built from, and the context it is trained with.

    Raises: ValueError naming the variable, its value and the requirement.
    """

    vocab_size: int = 1024
    train_seq_len: int = 1024
    num_layers: int = 11
    model_dim: int = 512
    num_heads: int = 8
    num_kv_heads: int = 4
    mlp_mult: int = 3
    rope_dims: int = 16  # of each head's dimensions; the rest carry no position
    rope_base: float = 50_000.0
    logit_softcap: float = 30.0
    bigram_vocab_size: int = 2048  # hash rows
    bigram_dim: int = 64

    def __post_init__(self):
        self.require_at_least(1, "num_layers", "num_heads", "num_kv_heads", "mlp_mult")
        self.require_at_least(1, "train_seq_len", "bigram_dim", "logit_softcap")
        self.require_at_least(2, "bigram_vocab_size")
        self.require(self.num_layers <= 1000, "num_layers", "at most 1000")
        self.require(self.train_seq_len <= 2**20, "train_seq_len", "at most 2**20")
        heads = self.num_heads
        is_multiple = self.model_dim > 0 and self.model_dim % heads == 0
        self.require(is_multiple, "model_dim", f"a multiple of NUM_HEADS={heads}")
        is_divisor = heads % self.num_kv_heads == 0
        self.require(is_divisor, "num_kv_heads", f"a divisor of NUM_HEADS={heads}")
        is_even = self.rope_dims % 2 == 0
        in_range = 0 < self.rope_dims <= self.head_dim
        requirement = f"even and between 2 and MODEL_DIM/NUM_HEADS={self.head_dim}"
        self.require(is_even and in_range, "rope_dims", requirement)

    @property
    def head_dim(self) -> int:
        return self.model_dim // self.num_heads


@dataclass(frozen=True)
class Settings(RunSettings, Shape):
    """What this recipe reads: the run's settings, the model's shape, and these.

    Raises: ValueError naming the variable, its value, the requirement and what to set instead.
    """

    # Schedule
    lr_warmup_frac: float = 0.01  # of the run
    warmdown_frac: float = 0.75  # of the run, linear
    min_lr: float = 0.1  # floor of the warmdown, relative to the peak
    # Initial weights
    qk_gain_init: float = 1.5
    tied_embed_init_std: float = 0.005
    # Optimizer
    tied_embed_lr: float = 0.05
    matrix_lr: float = 0.04  # in units of spectral norm per step
    scalar_lr: float = 0.04
    muon_momentum: float = 0.95
    muon_momentum_warmup_start: float = 0.85
    muon_momentum_warmup_steps: int = 500
    muon_wd: float = 0.04
    grad_clip_norm: float = 1.0  # 0: off
    ema_frac: float = 0.04  # horizon of the exponential average, relative to the run

    def __post_init__(self):
        RunSettings.__post_init__(self)
        Shape.__post_init__(self)
        self.require_fractions("lr_warmup_frac", "warmdown_frac", "min_lr", "ema_frac")


# `smoke` is the same architecture, for two CPU cores and a minute; `mini` is that for the track of
# records/mini_cpu, of the size that int5 rows leave room for.
PRESETS = {
    "pr334": {},
    "smoke": dict(
        data_path="./data/datasets/toy_sp1024",
        tokenizer_path="./data/tokenizers/toy_1024_bpe.model",
        max_wallclock_seconds=60.0,
        train_batch_tokens=2048,
        train_seq_len=256,
        micro_batch_tokens=2048,
        warmup_steps=1,
        lr_warmup_frac=0.02,
        val_loss_every=0,
        train_log_every=20,
        checkpoint_seconds=10.0,
        model_dim=64,
        num_heads=4,
        num_kv_heads=2,
        rope_dims=4,
        bigram_dim=16,
        muon_momentum_warmup_steps=50,
    ),
    "mini": dict(
        MINI_TRACK,
        data_path="./data/datasets/mini_sp1024",
        tokenizer_path="./data/datasets/mini_sp1024/tokenizer.model",
        train_batch_tokens=2048,
        train_seq_len=256,
        micro_batch_tokens=2048,
        warmup_steps=1,
        val_loss_every=0,
        eval_stride=128,
        eval_documents=True,
        num_layers=4,  # 5 end at 1.9330 bpb, 4 at 1.8456: int5 rows want the bytes (n = 1 each)
        model_dim=96,
        num_heads=3,
        num_kv_heads=1,
        rope_dims=8,
        bigram_dim=16,
    ),
}

# Model --------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Causal grouped-query attention; q and k RMS-normed, q scaled by a learned gain per head."""

    def __init__(self, shape: Shape):
        super().__init__()
        D = shape.model_dim
        self.H = shape.num_heads
        self.G = shape.num_kv_heads
        self.E = shape.head_dim
        self.q = Linear(D, self.H * self.E)
        self.k = Linear(D, self.G * self.E)
        self.v = Linear(D, self.G * self.E)
        self.proj = Linear(self.H * self.E, D)
        self.q_gain = nn.Parameter(torch.empty(self.H))

    def forward(self, x_BTD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, _ = x_BTD.shape
        q_BTHE = self.q(x_BTD).view(B, T, self.H, self.E)
        k_BTGE = self.k(x_BTD).view(B, T, self.G, self.E)
        v_BTGE = self.v(x_BTD).view(B, T, self.G, self.E)
        # With q and k normed, the gain alone says how sharp a head looks.
        gain = self.q_gain.to(x_BTD.dtype)[:, None]
        q_BTHE = rotate(norm(q_BTHE), cos, sin) * gain
        k_BTGE = rotate(norm(k_BTGE), cos, sin)
        y_BHTE = causal_attention(
            q_BTHE.transpose(1, 2), k_BTGE.transpose(1, 2), v_BTGE.transpose(1, 2)
        )
        y_BTD = y_BHTE.transpose(1, 2).reshape(B, T, self.H * self.E)
        return self.proj(y_BTD)


class MLP(nn.Module):
    """Two matrices with a squared ReLU between them."""

    def __init__(self, shape: Shape):
        super().__init__()
        width = shape.mlp_mult * shape.model_dim
        self.fc = Linear(shape.model_dim, width)
        self.proj = Linear(width, shape.model_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(F.relu(self.fc(x)).square())


class Block(nn.Module):
    """One layer: mix with the first embedding, attention, MLP, each with a scale per channel."""

    def __init__(self, shape: Shape, layer: int):
        super().__init__()
        D = shape.model_dim
        self.attn = Attention(shape)
        self.mlp = MLP(shape)
        self.attn_scale = nn.Parameter(torch.empty(D))
        self.mlp_scale = nn.Parameter(torch.empty(D))
        self.resid_mix = nn.Parameter(torch.empty(2, D))
        # Deeper layers see smaller inputs, and so add less to a stream that has grown.
        self.damping = 1 / math.sqrt(layer + 1)

    def forward(self, x: Tensor, x0: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        keep, first = self.resid_mix.to(x.dtype)
        x = keep * x + first * x0
        attended = self.attn(norm(x) * self.damping, cos, sin)
        x = x + self.attn_scale.to(x.dtype) * attended
        return x + self.mlp_scale.to(x.dtype) * self.mlp(norm(x) * self.damping)


class SmearGate(nn.Module):
    """Blend each position with the one before, per channel, but never across a document start."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.gate = nn.Parameter(torch.empty(shape.model_dim))

    def forward(self, x_BTD: Tensor, starts_BT: Tensor) -> Tensor:
        share = torch.sigmoid(self.gate).to(x_BTD.dtype) * ~starts_BT[..., None]
        before_BTD = F.pad(x_BTD[:, :-1], (0, 0, 1, 0))
        return torch.lerp(x_BTD, before_BTD, share)


class BigramHash(nn.Module):
    """An embedding of (previous token, token), hashed to few rows; the last row: no previous.

    The table starts at zero and the projection does not: with both at zero, as in upstream PR #334,
    neither would ever get a gradient.
    """

    def __init__(self, shape: Shape):
        super().__init__()
        self.table = nn.Embedding(shape.bigram_vocab_size, shape.bigram_dim)
        self.proj = Linear(shape.bigram_dim, shape.model_dim)
        self.scale = nn.Parameter(torch.empty(()))

    def rows(self, tokens_BT: Tensor, starts_BT: Tensor) -> Tensor:
        """With 2,048 rows, the pair (5, 7) has row (36313 * 7 ^ 27191 * 5) % 2047 = 1082."""
        no_previous = self.table.num_embeddings - 1
        previous_BT = F.pad(tokens_BT[:, :-1], (1, 0))
        hashed_BT = (36313 * tokens_BT ^ 27191 * previous_BT) % no_previous
        return torch.where(starts_BT, no_previous, hashed_BT)

    def forward(self, tokens_BT: Tensor, starts_BT: Tensor, dtype: torch.dtype) -> Tensor:
        x = self.table(self.rows(tokens_BT, starts_BT)).to(dtype)
        return self.proj(x) * self.scale.to(dtype)


class GPT(nn.Module):
    """tokens_BT -> softcapped logits_BTV in fp32.

    Beyond a textbook GPT: tied embedding; a hashed bigram embedding and a smear of neighbouring
    embeddings at the input; partial RoPE; normed inputs damped by 1/sqrt(layer + 1); the first half
    of the layers hands its outputs to the second half (U-Net); every layer can mix in the first
    embedding. Attention may look across a document start; smear and bigram never do.
    """

    def __init__(self, shape: Shape, compute_dtype: torch.dtype):
        super().__init__()
        self.shape = shape
        self.compute_dtype = compute_dtype
        self.tok_emb = nn.Embedding(shape.vocab_size, shape.model_dim)
        self.bigram = BigramHash(shape)
        self.smear = SmearGate(shape)
        self.blocks = nn.ModuleList(Block(shape, i) for i in range(shape.num_layers))
        self.num_skips = shape.num_layers // 2
        self.skip_weights = nn.Parameter(torch.empty(self.num_skips, shape.model_dim))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.head(self.features(tokens_BT))

    def logits_at(self, tokens_BT: Tensor, place_S: Tensor) -> Tensor:
        """logits_SV at places of the flattened tokens: scoring needs no others."""
        return self.head(self.features(tokens_BT).flatten(0, 1)[place_S])

    def features(self, tokens_BT: Tensor) -> Tensor:
        """What the layers make of the tokens, (B, T, D)."""
        starts_BT = tokens_BT == evaluate.BOS_ID
        starts_BT[:, 0] = True  # a window does not tell what precedes it
        x = self.tok_emb(tokens_BT).to(self.compute_dtype)
        x = norm(x + self.bigram(tokens_BT, starts_BT, x.dtype))
        x0 = x = self.smear(x, starts_BT)  # (B, T, D)
        shape = self.shape
        cos, sin = rotary_angles(x.size(1), shape.rope_dims, shape.head_dim, shape.rope_base, x)
        skips = []
        for i, block in enumerate(self.blocks):
            if i >= self.num_skips and skips:
                weight = self.skip_weights[i - self.num_skips].to(x.dtype)
                x = x + weight * skips.pop()
            x = block(x, x0, cos, sin)
            if i < self.num_skips:
                skips.append(x)
        return norm(x)

    def head(self, x: Tensor) -> Tensor:
        """Softcapped logits of features, in fp32."""
        logits = F.linear(x, self.tok_emb.weight.to(x.dtype)).float()
        cap = self.shape.logit_softcap
        return cap * torch.tanh(logits / cap)

    def loss(self, tokens_BT: Tensor) -> Tensor:
        """Cross-entropy in nats, summed over the T - 1 targets of every row."""
        logits_BTV = self(tokens_BT[:, :-1])
        targets = tokens_BT[:, 1:].flatten()
        return F.cross_entropy(logits_BTV.flatten(0, 1), targets, reduction="sum")

    @torch.no_grad()
    def init_weights(self, seed: int, embed_std: float = 0.005, q_gain: float = 1.5) -> "GPT":
        """Set every parameter; drawn on the CPU, so that every device starts from the same weights.

        Embedding normal(embed_std); gains of queries q_gain; bigram table, gates and the output
        projections of attention and MLP zero; other matrices orthogonal, those that write into the
        residual stream times 1/sqrt(2L); scales and skip weights one; residual mix (1, 0); bigram
        scale 0.05.

        Raises: AssertionError for a parameter that has no rule.
        """
        rng = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            match name.split(".")[0], name.removesuffix(".weight").split(".")[-1]:
                case "tok_emb", _:
                    p.normal_(std=embed_std, generator=rng)
                case "bigram", "proj":
                    gain = (2 * len(self.blocks)) ** -0.5
                    nn.init.orthogonal_(p, gain=gain, generator=rng)
                case "blocks", "q" | "k" | "v" | "fc":
                    nn.init.orthogonal_(p, generator=rng)
                case _, "table" | "gate" | "proj":
                    p.zero_()
                case _, "attn_scale" | "mlp_scale" | "skip_weights":
                    p.fill_(1.0)
                case "blocks", "resid_mix":
                    p.copy_(torch.tensor([1.0, 0.0])[:, None].expand_as(p))
                case "blocks", "q_gain":
                    p.fill_(q_gain)
                case "bigram", "scale":
                    p.fill_(0.05)
                case _:
                    raise AssertionError(f"init_weights has no rule for {name}")
        return self

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """matrix, embedding and scalar parameters, by the kind of module that owns them."""
        groups = {"matrix": [], "embedding": [], "scalar": []}
        for module in self.modules():
            kind = {Linear: "matrix", nn.Embedding: "embedding"}.get(type(module), "scalar")
            groups[kind] += module.parameters(recurse=False)
        grouped = [id(p) for group in groups.values() for p in group]
        assert sorted(grouped) == sorted(map(id, self.parameters())), "not in exactly one group"
        return groups

    def flops_per_token(self, T: int) -> int:
        """Forward and backward: 6 a weight of every product, 6*L*D*T for causal attention."""
        matrices = self.param_groups()["matrix"]
        weights = sum(p.numel() for p in matrices) + self.tok_emb.weight.numel()
        return 6 * weights + 6 * self.shape.num_layers * self.shape.model_dim * T


# Optimizer ----------------------------------------------------------------------------------------


def newton_schulz(G_NRC: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Push the singular values of N matrices (R <= C) towards one, in five quintic iterations.

    Each maps a singular value s to 3.4445 s - 4.7750 s^3 + 2.0315 s^5. The coefficients maximise
    the slope at zero and do not converge: singular values end between about 0.7 and 1.2, which
    trains as well as the exact polar factor and needs fewer products.
    In bf16 it does as well, where that is faster. Source: Keller Jordan's Muon.
    """
    X = G_NRC.to(dtype)
    # No singular value is above the Frobenius norm, so all of them are in [0, 1] now, where the
    # iteration is stable.
    X = X / (X.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        A = X @ X.mT
        B = -4.7750 * A + 2.0315 * A @ A
        X = 3.4445 * X + B @ X
    return X


class PlainMuon(Muon):
    """Muon with Newton-Schulz iterations, of updates as they are."""

    orthogonalize = staticmethod(newton_schulz)

    def updates(self, params: list[nn.Parameter], mu: float) -> list[Tensor]:
        return self.looked_ahead(params, mu)


def lr_scale(progress: float, settings: Settings) -> float:
    """Learning rate relative to its peak: up from a tenth, plateau, linearly down to min_lr."""
    up = down = 1.0
    if settings.lr_warmup_frac:
        up = 0.1 + 0.9 * progress / settings.lr_warmup_frac
    if settings.warmdown_frac:
        down = min(1.0, (1 - progress) / settings.warmdown_frac)
    return min(1.0, up, settings.min_lr + (1 - settings.min_lr) * down)


class Optimizers:
    """Muon for matrices, Adam (0.9, 0.95) for embeddings and scalars, under one schedule."""

    def __init__(self, model: GPT, settings: Settings, ranks: Ranks):
        self.settings = settings
        self.params = list(model.parameters())
        self.remedy = f"lower MATRIX_LR={settings.matrix_lr} or set GRAD_CLIP_NORM"
        is_cuda = ranks.device.type == "cuda"
        groups = model.param_groups()
        self.muon = PlainMuon(groups["matrix"], ranks, settings.compile)
        self.muon.param_groups[0].update(peak_lr=settings.matrix_lr, weight_decay=settings.muon_wd)
        embeddings = dict(params=groups["embedding"], peak_lr=settings.tied_embed_lr)
        scalars = dict(params=groups["scalar"], peak_lr=settings.scalar_lr)
        self.adam = torch.optim.Adam(
            [embeddings, scalars], lr=0.0, betas=(0.9, 0.95), eps=1e-8, fused=is_cuda
        )

    def momentum(self, step: int) -> float:
        """Muon's: up in a line from its first value over the first steps."""
        settings = self.settings
        share = min(1.0, step / max(1, settings.muon_momentum_warmup_steps))
        first = settings.muon_momentum_warmup_start
        return (1 - share) * first + share * settings.muon_momentum

    def step(self, step: int, progress: float) -> Tensor:
        """Clip, update, clear the gradients; returns their norm before clipping."""
        most = self.settings.grad_clip_norm or math.inf
        grad_norm = nn.utils.clip_grad_norm_(self.params, most, foreach=True)
        self.muon.param_groups[0]["momentum"] = self.momentum(step)
        self.scale = lr_scale(progress, self.settings)
        for optimizer in (self.muon, self.adam):
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * self.scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return grad_norm

    def state_dict(self) -> dict:
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])


# Averages -----------------------------------------------------------------------------------------


class Averages:
    """EMA and SWA of the weights, in fp32 (a bf16 average stops moving).

    The EMA's horizon is ema_frac of the run, in steps: one that outlasts the warmdown ruins short
    runs (upstream #1763: raw 1.205, averaged 1.246). SWA is the plain mean over the last 40 %.
    """

    SWA_FROM = 0.6  # of the run

    def __init__(self, model: GPT, settings: Settings):
        self.live = dict(model.named_parameters())
        self.ema_frac = settings.ema_frac
        self.swa_count = 0
        self.ema = {name: p.detach().clone() for name, p in self.live.items()}
        self.swa = {name: p.detach().clone() for name, p in self.live.items()}

    @torch.no_grad()
    def update(self, step: int, progress: float) -> None:
        """Take in the weights after step number `step` (from 1) at a progress in (0, 1]."""
        live = list(self.live.values())
        # The run will have step / progress steps. Early on, the horizon grows with the step, so
        # that the first weights, which are noise, are forgotten.
        horizon = min(self.ema_frac * step / progress, (step + 10) / 9)
        torch._foreach_lerp_(list(self.ema.values()), live, 1 / max(1.0, horizon))
        if progress >= self.SWA_FROM:
            self.swa_count += 1
            torch._foreach_lerp_(list(self.swa.values()), live, 1 / self.swa_count)

    def candidates(self) -> dict[str, State]:
        """Weights that could be exported, by name."""
        candidates = {
            "raw": {name: p.detach().clone() for name, p in self.live.items()},
            "ema": self.ema,
        }
        if self.swa_count:
            candidates["swa"] = self.swa
        return candidates

    def state_dict(self) -> dict:
        return {"ema": self.ema, "swa": self.swa, "swa_count": self.swa_count}

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        for name in self.live:
            self.ema[name].copy_(state["ema"][name])
            self.swa[name].copy_(state["swa"][name])
        self.swa_count = state["swa_count"]


# Recipe -------------------------------------------------------------------------------------------


class PR334(Recipe):
    """The seam to the engine (engine/recipe.py says what each method is for)."""

    name = "baselines.pr334"
    Settings = Settings
    presets = PRESETS

    def model_settings(self, settings: Settings) -> dict:
        return {field.name: getattr(settings, field.name) for field in fields(Shape)}

    def model(self, model_settings: dict, dtype: torch.dtype) -> GPT:
        differing = sorted(set(model_settings) ^ {field.name for field in fields(Shape)})
        if differing:
            raise ValueError(f"settings {differing} do not match those of {self.name}")
        return GPT(Shape(**model_settings), dtype)

    def init_weights(self, model: GPT, settings: Settings) -> None:
        model.init_weights(settings.seed, settings.tied_embed_init_std, settings.qk_gain_init)

    def optimizer(self, model: GPT, settings: Settings, ranks: Ranks) -> Optimizers:
        return Optimizers(model, settings, ranks)

    def averages(self, model: GPT, settings: Settings) -> Averages:
        return Averages(model, settings)

    def pack(
        self, weights: State, model_settings: dict, budget: Budget, hessians: MeasureHessians
    ) -> bytes:
        """Rows of 5 bits, 8 for the embedding; coarser ones where those do not fit."""
        state = {name: weight.float().cpu() for name, weight in weights.items()}
        blob = quantize.encode(state, quantize.DEFAULT_PLAN, model_settings)
        if len(blob) > budget.most_bytes:
            plan = quantize.DEFAULT_PLAN
            blob, _ = quantize.encode_to_target(state, plan, model_settings, int(budget.most_bytes))
        return blob

    def adapter(self, model: GPT, seq_len: int, ranks: Ranks) -> evaluate.AdaptFunction:
        return sgd_adapter(model, seq_len=seq_len, ranks=ranks)


RECIPE = PR334()

if __name__ == "__main__":
    train(RECIPE)
