"""What a document has left behind: a model that keeps it reads a document in one pass.

    memory = Memory(window=1024)
    for tokens_BT in segments:                  # of B documents, each from its beginning
        model.features(tokens_BT, memory)       # as if all tokens so far had been given at once

Every layer attends to the last `window` tokens, itself included, however long the document: what
training had at the end of its rows, for every token, and no token is read twice. With window 3 the
token of row i sees the keys marked x:

    keys     0 1 2 3 4
    token 2  x x x
    token 3    x x x         deeper layers see further back: 3 saw 1, which saw what lay before
    token 4      x x x

Shapes: B rows, T tokens, H query heads, G key/value heads, E head_dim, S keys.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RECENT = 2  # tokens that embeddings may look back: a neighbour's own embedding looks at its own


@dataclass
class Memory:
    """Keys and values of the last tokens by layer, without gradients, and how far the pass is.

    Rows may drop out from the end: of B rows before, the first rows go on.
    """

    window: int  # inputs that each token attends to, itself included
    position: int = 0  # tokens read so far, those of the present pass included
    recent_BT: Tensor | None = None
    kept: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def recall(self, tokens_BT: Tensor) -> Tensor:
        """Take in the next tokens; returns them after the two before (fewer at the beginning)."""
        self.position += tokens_BT.size(1)
        if self.recent_BT is not None:
            tokens_BT = torch.cat([self.recent_BT[: len(tokens_BT)], tokens_BT], dim=1)
        self.recent_BT = tokens_BT[:, -RECENT:]
        return tokens_BT

    def attend(self, layer: nn.Module, q_BHTE: Tensor, k_BGTE: Tensor, v_BGTE: Tensor) -> Tensor:
        """Attention to the last `window` of the keys so far."""
        if layer in self.kept:
            past_k, past_v = self.kept[layer]
            rows = len(k_BGTE)
            k_BGTE = torch.cat([past_k[:rows], k_BGTE], dim=2)
            v_BGTE = torch.cat([past_v[:rows], v_BGTE], dim=2)
        S = k_BGTE.size(2)
        first_kept = max(0, S - self.window + 1)
        self.kept[layer] = (k_BGTE[:, :, first_kept:].detach(), v_BGTE[:, :, first_kept:].detach())
        key_S = torch.arange(S, device=q_BHTE.device)
        query_T1 = key_S[S - q_BHTE.size(2) :, None]  # the last T keys are the queries' own
        is_seen_TS = (key_S <= query_T1) & (key_S > query_T1 - self.window)
        return F.scaled_dot_product_attention(
            q_BHTE, k_BGTE, v_BGTE, attn_mask=is_seen_TS, enable_gqa=True
        )
