"""Train an 11-layer GQA GPT for the 16 MB challenge, pack it, and score it from the packed bytes.

    python train_gpt.py                                     # no GPU: PRESET=smoke, about a minute
    torchrun --standalone --nproc_per_node=8 train_gpt.py   # 8 H100, 10 minutes: PRESET=record
    PRESET=h100_10min SEED=42 torchrun --standalone --nproc_per_node=1 train_gpt.py
    RESUME=<run_id> python train_gpt.py                     # continue a run that was killed

This file is our recipe, all of it, in the order of execution: settings, model, optimizer, averages.
To try an idea, change it here. What every recipe shares is in engine/, packing too; the score is
defined in evaluate.py, the artifact's format in quantize.py. Settings are upper-case environment
variables, see `Settings`.

The model is the last one of the challenge's field (baselines/field_stack.py) without its loops,
which on the mini track cost more steps than they gain (records/LOG.md). What is ours is all after
training: the trellis codec, one pass over each document, and its repeats.

Dimensions: B rows, T tokens, D model_dim, H query heads, G key/value heads, E head_dim,
V vocabulary, N matrices of one shape, R and C their rows and columns.
"""

import math
from dataclasses import dataclass, fields

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import evaluate
from engine.adapters import LowRank
from engine.memory import Memory
from engine.ranks import Ranks, compute_dtype
from engine.recipe import Recipe, State
from engine.settings import MINI_TRACK, Checked, RunSettings
from engine.trainer import train

# Settings -----------------------------------------------------------------------------------------

GATE_WINDOW = 12  # channels that gates look at


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
    mlp_mult: int = 4
    rope_dims: int = 16  # of each head's dimensions; the rest carry no position
    rope_base: float = 10_000.0
    logit_softcap: float = 30.0

    def __post_init__(self):
        self.require_at_least(1, "num_layers", "num_heads", "num_kv_heads", "mlp_mult")
        self.require_at_least(1, "train_seq_len", "logit_softcap")
        self.require_at_least(GATE_WINDOW, "model_dim")
        self.require(self.num_layers <= 1000, "num_layers", "at most 1000")
        self.require(self.train_seq_len <= 2**20, "train_seq_len", "at most 2**20")
        heads = self.num_heads
        is_multiple = self.model_dim % heads == 0
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

    @property
    def lanes_from(self) -> int:
        """The first layer with two lanes: 8 of 11, 3 of 4."""
        return self.num_layers * 3 // 4


@dataclass(frozen=True)
class Settings(RunSettings, Shape):
    """What this recipe reads: the run's settings, the model's shape, and these.

    Raises: ValueError naming the variable, its value, the requirement and what to set instead.
    """

    # Scoring: one pass over each document, every layer attending to train_seq_len inputs, costs
    # 1.0 forward tokens a target and is no worse than windows moved by a quarter, which cost 4.0
    # (1.9033 against 1.9037 bpb on web text, 2.0077 against 2.0078 on C4; records/LOG.md)
    eval_stride: int = 0
    eval_documents: bool = True
    # Schedule
    warmdown_frac: float = 0.85  # of the run, linear
    min_lr: float = 0.1  # floor of the warmdown, relative to the peak
    # Initial weights
    qk_gain_init: float = 5.0
    tied_embed_init_std: float = 0.005
    # Optimizer. Rates and decay are the field's (upstream #1855, #2135), tuned at width 512 in
    # 5,000 steps of 786,432 tokens. Width: the tenth step moves the logits by 0.30 at width 64 and
    # by 0.39 at 128, of which the embedding moves 0.26 and 0.40, matrices and scalars 0.10 and 0.08
    # at both (tools/runs/coordinates.py, n = 1). So MATRIX_LR and SCALAR_LR hold at every width,
    # and TIED_EMBED_LR goes with 1 / width, because the embedding is the head, too. Depth: layers
    # begin as the identity and are damped, so that no rate should depend on it; not measured. Batch
    # and steps: fewer steps want higher rates, in the field 0.025 at 8,000 and 0.06 at 2,000 of
    # 131,072 tokens (upstream #436); not measured here.
    tied_embed_lr: float = 0.03
    matrix_lr: float = 0.028  # in units of spectral norm per step
    scalar_lr: float = 0.02
    muon_momentum: float = 0.97
    muon_momentum_warmup_start: float = 0.92
    muon_momentum_warmup_steps: int = 1500
    muon_wd: float = 0.095
    tied_embed_wd: float = 0.085
    scalar_wd: float = 0.02
    grad_clip_norm: float = 0.3  # 0: off
    ema_frac: float = 0.058  # horizon of the exponential average, relative to the run

    def __post_init__(self):
        RunSettings.__post_init__(self)
        Shape.__post_init__(self)
        self.require_fractions("warmdown_frac", "min_lr", "ema_frac")


# What differs from the defaults. Sizes of `record` (8 H100, 10 minutes) and of one H100 or H200 are
# by the rule of tools/runs/sizes.py; no run of them was measured. Pieces: the field's step from
# 1,024 to 8,192 gained 12 mb and more (upstream #1218, #1394).
LARGE = dict(
    data_path="./data/datasets/fineweb10B_sp8192",
    tokenizer_path="./data/tokenizers/fineweb_8192_bpe.model",
    vocab_size=8192,
    micro_batch_tokens=131_072,
)
LONG = dict(LARGE, train_seq_len=2048)
# `smoke` and `mini` are the same architecture for two CPU cores: smoke is over in a minute, mini is
# the track of records/mini_cpu, judged at equal training FLOPs.
SMALL = dict(
    train_batch_tokens=2048,
    train_seq_len=256,
    micro_batch_tokens=2048,
    warmup_steps=1,
    val_loss_every=0,
    num_layers=4,
    model_dim=96,
    num_heads=3,
    num_kv_heads=1,
    rope_dims=8,
)
PRESETS = {
    "record": LONG,
    "h100_80min": dict(LONG, max_wallclock_seconds=4800.0),
    # Fewer layers and tokens a step than a long run: 8 layers of the field's 11 did best on one GPU
    # in 10 minutes (#1617, #436).
    "h100_10min": dict(LARGE, num_layers=8, train_batch_tokens=262_144),
    "smoke": dict(
        SMALL,
        data_path="./data/datasets/toy_sp1024",
        tokenizer_path="./data/tokenizers/toy_1024_bpe.model",
        max_wallclock_seconds=60.0,
        train_log_every=20,
        checkpoint_seconds=10.0,
        # 300 steps want higher rates than 5,000: 1.8189 bpb, not 1.8688 (n = 1).
        tied_embed_lr=0.05,
        matrix_lr=0.04,
        scalar_lr=0.04,
        muon_momentum=0.95,
        muon_momentum_warmup_start=0.85,
        muon_momentum_warmup_steps=50,
        grad_clip_norm=1.0,
    ),
    "mini": dict(
        SMALL,
        **MINI_TRACK,
        data_path="./data/datasets/mini_sp2048",
        tokenizer_path="./data/datasets/mini_sp2048/tokenizer.model",
        vocab_size=2048,
    ),
}

# Model --------------------------------------------------------------------------------------------


def norm(x: Tensor) -> Tensor:
    """Scale the last dimension to a root-mean-square of 1."""
    return F.rms_norm(x, (x.size(-1),))


class Linear(nn.Linear):
    """A matrix kept in fp32 and used in the precision of its input; no bias."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


def rotary_angles(
    T: int, dims: int, head_dim: int, base: float, like: Tensor
) -> tuple[Tensor, Tensor]:
    """cos (T, 1, head_dim), 1 beyond dims, and sin (T, 1, dims), negative in its first half."""
    channel = torch.arange(0, dims, 2, device=like.device, dtype=torch.float32)
    position = torch.arange(T, device=like.device, dtype=torch.float32)
    frequency = base ** -(channel / dims)
    angles = torch.outer(position, frequency)[:, None]
    cos = F.pad(angles.cos().repeat(1, 1, 2), (0, head_dim - dims), value=1.0)
    sin = torch.cat([-angles.sin(), angles.sin()], dim=-1)
    return cos.to(like.dtype), sin.to(like.dtype)


def rotate(x_BTHE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first dims of each head by its position; the others pass.

    Each channel of their first half turns with its partner in the second. With dims 2 and an angle
    of 90 degrees, (3, 4, 5, 6) becomes (-4, 3, 5, 6): (3, 4, 5, 6) * (0, 0, 1, 1) and (4, 3) *
    (-1, 1) on top.
    """
    # Without a concatenation, of which a compiler makes more kernels: with the norm before and the
    # gain after, forward and backward, 11 instead of 14 for the same bits (n = 1).
    dims = sin.size(-1)
    partners = x_BTHE[..., :dims].unflatten(-1, (2, -1)).flip(-2).flatten(-2)
    return x_BTHE * cos + F.pad(partners * sin, (0, x_BTHE.size(-1) - dims))


def causal_attention(q_BHTE: Tensor, k_BGTE: Tensor, v_BGTE: Tensor) -> Tensor:
    """y_BHTE: each position attends to itself and what precedes it; H/G query heads share a key."""
    if q_BHTE.is_cuda or not torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(
            q_BHTE, k_BGTE, v_BGTE, is_causal=True, enable_gqa=True
        )
    # Compiled for a CPU, the definition is faster than the kernel: in bf16 one layer takes 5.9 ms,
    # not 11.0, forward and backward (8 x 256 positions, 3 heads of 32; n = 1). The queries of all
    # heads that share a key are rows of one product.
    B, H, T, E = q_BHTE.shape
    G = k_BGTE.size(1)
    shared_q = (q_BHTE * E**-0.5).reshape(B, G, H // G * T, E)
    scores = (shared_q @ k_BGTE.mT).view(B, G, H // G, T, T)
    is_seen_TT = torch.ones(T, T, dtype=torch.bool, device=q_BHTE.device).tril()
    weights = scores.masked_fill(~is_seen_TT, -math.inf).softmax(dim=-1)
    return (weights.view(B, G, H // G * T, T) @ v_BGTE).view(B, H, T, E)


def without_own_value(y_BHTE: Tensor, v_BGTE: Tensor) -> Tensor:
    """Take out of each head's output its part along the position's own value.

    A layer has its own input already, in the residual stream: attention is left to bring what other
    positions hold. For y = (3, 4) and v = (2, 0): (0, 4). Source: XSA, upstream PR #265.
    """
    own_BG1TE = F.normalize(v_BGTE, dim=-1)[:, :, None]
    y_BGRTE = y_BHTE.unflatten(1, (v_BGTE.size(1), -1))
    along_BGRT1 = (y_BGRTE * own_BG1TE).sum(dim=-1, keepdim=True)
    return (y_BGRTE - along_BGRT1 * own_BG1TE).flatten(1, 2)


class Attention(nn.Module):
    """Causal grouped-query attention; q and k RMS-normed, q scaled by a learned gain per head.

    What each head brings goes through a gate.
    """

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
        self.gate = nn.Parameter(torch.empty(self.H, GATE_WINDOW))

    def forward(
        self, x_BTD: Tensor, cos: Tensor, sin: Tensor, memory: Memory | None = None
    ) -> Tensor:
        B, T, _ = x_BTD.shape
        q_BTHE = self.q(x_BTD).view(B, T, self.H, self.E)
        k_BTGE = self.k(x_BTD).view(B, T, self.G, self.E)
        v_BTGE = self.v(x_BTD).view(B, T, self.G, self.E)
        # With q and k normed, no score grows with the weights: training is stable at high rates.
        # The gain alone says how sharply a head looks.
        gain = self.q_gain.to(x_BTD.dtype)[:, None]
        q_BTHE = rotate(norm(q_BTHE), cos, sin) * gain
        k_BTGE = rotate(norm(k_BTGE), cos, sin)
        # Two query heads share one key and value head: half the bytes of k and v, and every record
        # of the field does it.
        q_BHTE = q_BTHE.transpose(1, 2)
        k_BGTE = k_BTGE.transpose(1, 2)
        v_BGTE = v_BTGE.transpose(1, 2)
        if memory is None:
            y_BHTE = causal_attention(q_BHTE, k_BGTE, v_BGTE)
        else:
            y_BHTE = memory.attend(self, q_BHTE, k_BGTE, v_BGTE)
        y_BTHE = without_own_value(y_BHTE, v_BGTE).transpose(1, 2)
        # A head that has nothing to say here can be silent; a few channels tell. At first all are
        # half open. Source: upstream PR #1787.
        scores_BTH = F.linear(x_BTD[..., :GATE_WINDOW], self.gate.to(x_BTD.dtype))
        y_BTHE = y_BTHE * torch.sigmoid(0.5 * scores_BTH)[..., None]
        return self.proj(y_BTHE.reshape(B, T, self.H * self.E))


class MLP(nn.Module):
    """Two matrices with a squared leaky ReLU between them."""

    def __init__(self, shape: Shape):
        super().__init__()
        width = shape.mlp_mult * shape.model_dim
        self.fc = Linear(shape.model_dim, width)
        self.proj = Linear(width, shape.model_dim)

    def forward(self, x: Tensor) -> Tensor:
        # A square costs one product and no exponential; the leak keeps a gradient for every input.
        return self.proj(F.leaky_relu(self.fc(x), 0.5).square())


class Block(nn.Module):
    """One layer: mix in the first embedding, then attention and MLP, on one stream or between two.

    Of two lanes, attention reads the first and the MLP the second, and both write to both.
    Source: upstream PR #1529.
    """

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
        self.has_lanes = layer >= shape.lanes_from
        if self.has_lanes:
            self.lane_keep = nn.Parameter(torch.empty(2))
            self.lane_add = nn.Parameter(torch.empty(2, 2))  # [lane, attention or MLP]

    def forward(self, x: Tensor, x0: Tensor, *inputs) -> Tensor:
        """The stream after the layer; inputs are those of Attention.forward, but for the first."""
        x = self.mixed(x, x0)
        x = x + self.attended(x, *inputs)
        return x + self.thought(x)

    def between(self, first: Tensor, second: Tensor, x0: Tensor, *inputs) -> tuple[Tensor, Tensor]:
        """Both lanes after the layer, each (B, T, D)."""
        attended = self.attended(self.mixed(first, x0), *inputs)
        thought = self.thought(second)
        lanes = []
        keep_2 = self.lane_keep.to(first.dtype)
        add_22 = self.lane_add.to(first.dtype)
        for lane, keep, add in zip((first, second), keep_2, add_22, strict=True):
            lanes.append(keep * lane + add[0] * attended + add[1] * thought)
        return lanes[0], lanes[1]

    def mixed(self, x: Tensor, x0: Tensor) -> Tensor:
        # Each layer can bring the token itself back, which the stream has long written over.
        keep, first = self.resid_mix.to(x.dtype)
        return keep * x + first * x0

    def attended(self, x: Tensor, *inputs) -> Tensor:
        return self.attn_scale.to(x.dtype) * self.attn(norm(x) * self.damping, *inputs)

    def thought(self, x: Tensor) -> Tensor:
        return self.mlp_scale.to(x.dtype) * self.mlp(norm(x) * self.damping)


class SmearGate(nn.Module):
    """Add a share of the embedding before, as the token tells, never across a document start.

    Source: upstream PR #1667; masked as in #1868.
    """

    def __init__(self):
        super().__init__()
        self.gate = nn.Parameter(torch.empty(GATE_WINDOW))
        self.scale = nn.Parameter(torch.empty(()))

    def forward(self, x_BTD: Tensor, starts_BT: Tensor) -> Tensor:
        # A token's neighbour is what attention would look up first: here it costs no head. Across a
        # document start there is no neighbour, and a leak there would be a fault of the score.
        score_BT = (x_BTD[..., :GATE_WINDOW] * self.gate.to(x_BTD.dtype)).sum(dim=-1)
        share_BT = self.scale.to(x_BTD.dtype) * torch.sigmoid(score_BT) * ~starts_BT
        before_BTD = F.pad(x_BTD[:, :-1], (0, 0, 1, 0))
        return x_BTD + share_BT[..., None] * before_BTD


class GPT(nn.Module):
    """tokens_BT -> softcapped logits_BTV in fp32.

    Beyond a textbook GPT: tied embedding; a smear of neighbouring embeddings at the input; partial
    RoPE; normed inputs damped by 1/sqrt(layer + 1); the first half of the layers hands its outputs
    to the second half (U-Net), each through a gate; every layer can mix in the first embedding;
    in the last quarter the stream has two lanes. Attention may look across a document start; the
    smear never does.
    """

    takes_memory = True  # scoring may read each document in one pass

    def __init__(self, shape: Shape, compute_dtype: torch.dtype):
        super().__init__()
        self.shape = shape
        self.compute_dtype = compute_dtype
        self.tok_emb = nn.Embedding(shape.vocab_size, shape.model_dim)
        self.smear = SmearGate()
        self.blocks = nn.ModuleList(Block(shape, i) for i in range(shape.num_layers))
        self.num_skips = shape.num_layers // 2
        self.skip_weights = nn.Parameter(torch.empty(self.num_skips, shape.model_dim))
        self.skip_gates = nn.Parameter(torch.empty(self.num_skips, shape.model_dim))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.head(self.features(tokens_BT))

    def logits_at(self, tokens_BT: Tensor, place_S: Tensor, memory: Memory | None = None) -> Tensor:
        """logits_SV at places of the flattened tokens: scoring needs no others."""
        return self.head(self.features(tokens_BT, memory).flatten(0, 1)[place_S])

    def features(self, tokens_BT: Tensor, memory: Memory | None = None) -> Tensor:
        """What the layers make of the tokens, (B, T, D); with a memory, after all it holds."""
        T = tokens_BT.size(1)
        position = 0
        if memory is not None:
            tokens_BT = memory.recall(tokens_BT)
            position = memory.position - T
        starts_BT = tokens_BT == evaluate.BOS_ID
        starts_BT[:, 0] = True  # a window does not tell what precedes it
        x = self.tok_emb(tokens_BT).to(self.compute_dtype)
        # Normed, so that the first layer sees inputs of one size whatever the embedding's rate did.
        # The tokens recalled are there for their neighbours' sake, and go no further.
        x0 = x = norm(self.smear(x, starts_BT))[:, -T:]  # (B, T, D)
        shape = self.shape
        cos, sin = rotary_angles(position + T, shape.rope_dims, shape.head_dim, shape.rope_base, x)
        cos = cos[position:]
        sin = sin[position:]
        # The last layer of the first half is the first to be handed over, as in a U-Net: with 11
        # layers 4 -> 5, 3 -> 6, 2 -> 7, 1 -> 8, 0 -> 9, and layer 10 gets none.
        skips = []
        second = None
        for i, block in enumerate(self.blocks):
            if block.has_lanes and second is None:
                second = x
            if i >= self.num_skips and skips:
                x = self.with_skip(x, skips.pop(), i - self.num_skips)
            if second is None:
                x = block(x, x0, cos, sin, memory)
            else:
                x, second = block.between(x, second, x0, cos, sin, memory)
            if i < self.num_skips:
                skips.append(x)
        return norm((x + second) / 2)

    def with_skip(self, x: Tensor, skip: Tensor, place: int) -> Tensor:
        """x, blended with the output of an earlier layer; source: upstream PR #1089."""
        gate = torch.sigmoid(self.skip_gates[place]).to(x.dtype)
        return gate * x + (1 - gate) * self.skip_weights[place].to(x.dtype) * skip

    def head(self, x: Tensor) -> Tensor:
        """Softcapped logits of features, in fp32."""
        # The embedding is also the head: one table of bytes for two duties.
        logits = F.linear(x, self.tok_emb.weight.to(x.dtype)).float()
        # Capped, no single logit can run away early on, when the rate is high.
        cap = self.shape.logit_softcap
        return cap * torch.tanh(logits / cap)

    def loss(self, tokens_BT: Tensor) -> Tensor:
        """Cross-entropy in nats, summed over the T - 1 targets of every row."""
        logits_BTV = self(tokens_BT[:, :-1])
        targets = tokens_BT[:, 1:].flatten()
        return F.cross_entropy(logits_BTV.flatten(0, 1), targets, reduction="sum")

    @torch.no_grad()
    def init_weights(self, seed: int, embed_std: float = 0.005, q_gain: float = 5.0) -> "GPT":
        """Set every parameter; drawn on the CPU, so that every device starts from the same weights.

        Embedding normal(embed_std); gains of queries q_gain; all gates, the smear and the output
        projections of attention and MLP zero; other matrices orthogonal; scales and
        skip weights one; residual mix (1, 0); lanes kept times 1.1, with what is added times 1.

        Raises: AssertionError for a parameter that has no rule.
        """
        rng = torch.Generator().manual_seed(seed)
        # Output projections of zero make every layer the identity at first, and orthogonal matrices
        # keep the size of what passes: the depth does not matter before training has begun.
        for name, p in self.named_parameters():
            match name.split(".")[0], name.removesuffix(".weight").split(".")[-1]:
                case "tok_emb", _:
                    p.normal_(std=embed_std, generator=rng)
                case "blocks", "q" | "k" | "v" | "fc":
                    nn.init.orthogonal_(p, generator=rng)
                case ("smear", _) | (_, "gate" | "proj" | "skip_gates"):
                    p.zero_()
                case _, "attn_scale" | "mlp_scale" | "skip_weights" | "lane_add":
                    p.fill_(1.0)
                case "blocks", "lane_keep":
                    p.fill_(1.1)
                case "blocks", "resid_mix":
                    p.copy_(torch.tensor([1.0, 0.0])[:, None].expand_as(p))
                case "blocks", "q_gain":
                    p.fill_(q_gain)
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
        groups = self.param_groups()
        gates = [self.smear.gate, *(block.attn.gate for block in self.blocks)]
        factors = groups["matrix"] + groups["embedding"] + gates
        weights = sum(p.numel() for p in factors)
        return 6 * weights + 6 * self.shape.num_layers * self.shape.model_dim * T


# Optimizer ----------------------------------------------------------------------------------------


# Of five iterations X <- a X + (b A + c A A) X with A = X X^T. Each row is the best polynomial for
# the singular values that the rows before it leave. Source: Polar Express, upstream PR #1344.
POLAR_EXPRESS = (
    (8.157, -22.483, 15.879),
    (4.043, -2.809, 0.500),
    (3.892, -2.772, 0.506),
    (3.286, -2.368, 0.464),
    (2.347, -1.710, 0.423),
)


def polar_express(G_NRC: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Push the singular values of N matrices (R <= C) towards one, in five quintic iterations.

    In bf16 it does as well as in fp32, where that is faster.
    """
    X = G_NRC.to(dtype)
    # No singular value is above the Frobenius norm. Two per cent below one: beyond one the first
    # polynomial runs away, and bf16 rounds upwards.
    X = X / (1.02 * X.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in POLAR_EXPRESS:
        A = X @ X.mT
        X = a * X + (b * A + c * A @ A) @ X
    return X


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised: a step has spectral norm lr, whatever the gradient.

    Matrices of one shape (up to transposition) are stacked and orthogonalised in one batched call;
    the stack is shared out among ranks and gathered. Weight decay is decoupled.

    Source: Keller Jordan's Muon (Nesterov form), with rows of one norm as in upstream PR #1217; the
    shared stack is PR #549's.
    """

    orthogonalize = staticmethod(polar_express)

    def __init__(self, params, ranks: Ranks, compile: bool = False):
        super().__init__(params, dict(lr=0.0, momentum=0.0, weight_decay=0.0))
        self.ranks = ranks
        self.dtype = compute_dtype(ranks.device, compile)
        # On a CPU the products are nearly all of it, and compiling would gain nothing.
        is_compiled = compile and ranks.device.type == "cuda"
        if is_compiled:
            self.orthogonalize = torch.compile(self.orthogonalize)
        self.stacks: dict[tuple[int, int], list[nn.Parameter]] = {}
        for p in self.param_groups[0]["params"]:
            self.state[p]["momentum"] = torch.zeros_like(p)
            self.stacks.setdefault((min(p.shape), max(p.shape)), []).append(p)

    @torch.no_grad()
    def step(self):
        group = self.param_groups[0]
        lr = group["lr"]
        for params in self.stacks.values():
            updates = self.updates(params, group["momentum"])
            wide = torch.stack([u.mT if is_tall(u) else u for u in updates])
            for p, update in zip(params, self.orthogonalize_shared(wide), strict=True):
                update = update.mT if is_tall(p) else update
                # A tall matrix maps few inputs to many outputs: the same step per output.
                scale = math.sqrt(max(1.0, p.size(0) / p.size(1)))
                p.mul_(1 - lr * group["weight_decay"])
                p.add_(update.to(p.dtype), alpha=-lr * scale)

    def updates(self, params: list[nn.Parameter], mu: float) -> list[Tensor]:
        """What each matrix is to move by, before it is orthogonalised; moves the momenta on."""
        # Rows of one norm first: no output of a matrix waits for those with larger gradients.
        updates = self.looked_ahead(params, mu)
        return [u / u.norm(dim=1, keepdim=True).clamp(min=1e-7) for u in updates]

    def looked_ahead(self, params: list[nn.Parameter], mu: float) -> list[Tensor]:
        """Momenta moved on by the gradients, and by these once more, as Nesterov has it."""
        # A few calls for all matrices of a shape: one call for each would cost more time on a
        # GPU than the work itself.
        grads = [p.grad for p in params]
        momenta = [self.state[p]["momentum"] for p in params]
        torch._foreach_mul_(momenta, mu)
        torch._foreach_add_(momenta, grads)
        return torch._foreach_add(grads, momenta, alpha=mu)

    def orthogonalize_shared(self, stack_NRC: Tensor) -> Tensor:
        """Orthogonalise this rank's part of the stack and gather everyone's."""
        N = stack_NRC.size(0)
        world_size = self.ranks.world_size
        if world_size == 1:
            return self.orthogonalize(stack_NRC, self.dtype)
        # Every rank has the same gradients, so each orthogonalises a share and all exchange
        # results: the work falls by the number of ranks, the traffic is that of the update.
        each = -(-N // world_size)
        padded = F.pad(stack_NRC, (0, 0, 0, 0, 0, each * world_size - N))
        own = padded[self.ranks.rank * each :][:each]
        own = self.orthogonalize(own, self.dtype).contiguous()
        everyone = own.new_empty(padded.shape)
        dist.all_gather_into_tensor(everyone, own)
        return everyone[:N]


def is_tall(matrix: Tensor) -> bool:
    return matrix.size(0) > matrix.size(1)


def lr_scale(progress: float, settings: Settings) -> float:
    """Learning rate relative to its peak: plateau, then linearly towards zero, not below min_lr."""
    # By progress, not by step: under a wall clock nobody knows the number of steps, and whether the
    # rate has come down when the time is over decides short runs (upstream #1763, #1125).
    if not settings.warmdown_frac:
        return 1.0
    return min(1.0, max((1 - progress) / settings.warmdown_frac, settings.min_lr))


class Optimizers:
    """Muon for matrices, AdamW (0.9, 0.99) for the rest, under one schedule."""

    def __init__(self, model: GPT, settings: Settings, ranks: Ranks):
        self.settings = settings
        self.params = list(model.parameters())
        self.remedy = f"lower MATRIX_LR={settings.matrix_lr} or set GRAD_CLIP_NORM"
        # Muon makes steps of one size in every direction, which suits matrices that mix channels.
        # A row of an embedding moves only when its token occurs, so Adam scales each number alone.
        is_cuda = ranks.device.type == "cuda"
        groups = model.param_groups()
        self.muon = Muon(groups["matrix"], ranks, settings.compile)
        self.muon.param_groups[0].update(peak_lr=settings.matrix_lr, weight_decay=settings.muon_wd)
        embedding = dict(
            params=groups["embedding"],
            peak_lr=settings.tied_embed_lr,
            weight_decay=settings.tied_embed_wd,
        )
        scalars = dict(
            params=groups["scalar"], peak_lr=settings.scalar_lr, weight_decay=settings.scalar_wd
        )
        self.adam = torch.optim.AdamW(
            [embedding, scalars], lr=0.0, betas=(0.9, 0.99), eps=1e-8, fused=is_cuda
        )

    def momentum(self, step: int) -> float:
        """Muon's: up in a line from its first value over the first steps."""
        settings = self.settings
        # Early gradients point elsewhere than later ones: a long memory of them would mislead.
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
        # The engine scores all of them on held-out training text and packs the best: which one wins
        # depends on the run's length.
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


class OurRecipe(Recipe):
    """The seam to the engine (engine/recipe.py says what each method is for)."""

    name = "train_gpt"
    # A document's own pairs and triples of tokens beside the model, at no cost: 118 to 169 mb on
    # web text and 181 to 239 on C4 for models of 0.5 and 1.2 M parameters (records/LOG.md).
    mixes_repeats = True
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

    def adapter(self, model: GPT, seq_len: int, ranks: Ranks) -> LowRank:
        # The MLP's matrices alone have all but 2 % of what adapting every matrix gains.
        return LowRank(model, ("mlp.fc", "mlp.proj"))


RECIPE = OurRecipe()

if __name__ == "__main__":
    train(RECIPE)
