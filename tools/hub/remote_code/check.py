"""Compare a Hugging Face folder with the original model: `tools.hub.proof` runs this.

    python -I check.py FOLDER PROBE.pt

Nothing of the repository is imported. The last line printed is one JSON object: for each
comparison the largest difference; of texts, how many have other tokens; null: nothing to compare.
"""

import json
import sys
import tempfile
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

AS_TEXT = {"add_special_tokens": False, "split_special_tokens": True}
GREEDY = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def load(folder: str, **options):
    """The folder's model in fp32; a weight that is missing, left over or misshapen is an error."""
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=True, dtype=torch.float32, output_loading_info=True, **options
    )
    wrong = {name: sorted(map(str, keys)) for name, keys in loading.items() if keys}
    if wrong:
        raise ValueError(f"weights do not fit the code: {wrong}")
    return model.eval()


@dataclass
class Subject:
    """A folder's model, what the original says, and what the folder says of the same tokens."""

    folder: str
    model: torch.nn.Module
    probe: dict  # tokens_BT and the original's logits_BTV; perhaps texts and ids
    logits_BTV: Tensor  # of the folder's model, in one go

    @property
    def tokens_BT(self) -> Tensor:
        return self.probe["tokens_BT"]


def largest(x: Tensor, y: Tensor) -> float:
    return (x - y).abs().max().item()


# Logits -------------------------------------------------------------------------------------------


def logits(subject: Subject) -> float:
    return largest(subject.logits_BTV, subject.probe["logits_BTV"])


def cached(subject: Subject) -> float:
    """In pieces, each with the cache of those before it; the second time a plain DynamicCache."""
    tokens = subject.tokens_BT
    T = tokens.size(1)
    worst = 0.0
    # Halves; the shortest pieces first, so that two tokens before a call are wanting; single steps.
    for chunks in ([T // 2, T - T // 2], [7, 1, 1, T - 9], [T - 20, *[1] * 20]):
        cache = DynamicCache() if chunks[0] == 7 else None
        start = 0
        for chunk in chunks:
            end = start + chunk
            out = subject.model(tokens[:, start:end], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            worst = max(worst, largest(out.logits, subject.logits_BTV[:, start:end]))
            start = end
    return worst


def left_padded(subject: Subject) -> float:
    tokens = subject.tokens_BT
    text = tokens[:1, :-5]
    padded = torch.cat([tokens[:1, :5], text], dim=1)
    mask = torch.ones_like(padded)
    mask[:, :5] = 0
    # GPT-2's own class takes positions from the caller, as `generate` gives them.
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    out = subject.model(padded, attention_mask=mask, position_ids=positions, use_cache=False)
    return largest(out.logits[:, 5:], subject.logits_BTV[:1, :-5])


def packed(subject: Subject) -> float:
    """Three documents in a row, position_ids starting again at each, against each alone."""
    tokens = subject.tokens_BT
    documents = [tokens[:1, :40], tokens[:1, 40:47], tokens[1:, :16]]
    positions = torch.cat([torch.arange(d.size(1)) for d in documents])[None]
    row = torch.cat(documents, dim=1)
    together = subject.model(row, position_ids=positions, use_cache=False).logits
    alone = torch.cat([subject.model(d, use_cache=False).logits for d in documents], dim=1)
    return largest(together, alone)


def embeddings(subject: Subject) -> float:
    """inputs_embeds that are looked up by the caller."""
    tokens = subject.tokens_BT
    looked_up = subject.model.get_input_embeddings()(tokens)
    out = subject.model(inputs_embeds=looked_up, use_cache=False)
    return largest(out.logits, subject.logits_BTV)


def eager_attention(subject: Subject) -> float:
    """Attention in plain PyTorch against torch's own function."""
    eager = load(subject.folder, attn_implementation="eager")
    return largest(eager(subject.tokens_BT, use_cache=False).logits, subject.logits_BTV)


def exported(subject: Subject) -> float:
    """A program of torch.export, whose numbers of rows and tokens are free, on another shape."""
    tokens = subject.tokens_BT
    # .contiguous: the strides of a slice would be taken for a condition on the length.
    rows = torch.export.Dim("rows", min=1, max=64)
    length = torch.export.Dim("length", min=2, max=tokens.size(1))
    program = torch.export.export(
        subject.model,
        (),
        {"input_ids": tokens[:, : tokens.size(1) // 2].contiguous(), "use_cache": False},
        dynamic_shapes={"input_ids": {0: rows, 1: length}, "use_cache": None},
        strict=False,
    )
    out = program.module()(input_ids=tokens[:1], use_cache=False)
    return largest(out.logits, subject.logits_BTV[:1])


def checkpointing(subject: Subject) -> float:
    """Loss and gradients with gradient checkpointing against those without; the larger of both.

    In training mode, dropout included: both draw the same numbers. Of gradients relative to the
    largest one.
    """
    model = subject.model.train()
    tokens = subject.tokens_BT[:, :64]
    losses, gradients = [], []
    for is_checkpointed in (False, True):
        if is_checkpointed:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        torch.manual_seed(0)
        with torch.enable_grad():
            loss = model(tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    model.gradient_checkpointing_disable()
    model.zero_grad()
    model.eval()
    difference = max(largest(x, y) for x, y in zip(*gradients, strict=True))
    scale = max(x.abs().max().item() for x in gradients[0])
    return max(abs(losses[0] - losses[1]), difference / scale)


def saved_and_loaded(subject: Subject) -> float:
    with tempfile.TemporaryDirectory() as again:
        subject.model.save_pretrained(again)
        reloaded = load(again)(subject.tokens_BT, use_cache=False).logits
    return largest(reloaded, subject.logits_BTV)


# Tokens -------------------------------------------------------------------------------------------


def prompt_of(subject: Subject) -> Tensor:
    tokens = subject.tokens_BT
    return tokens[:, : min(tokens.size(1) - 20, 100)]


def greedy_tokens(subject: Subject) -> int:
    """Tokens that a cache changes."""
    texts = [
        subject.model.generate(prompt_of(subject), use_cache=is_cached, **GREEDY)
        for is_cached in (True, False)
    ]
    return int((texts[0] != texts[1]).sum())


def static_cache_tokens(subject: Subject) -> int:
    """Tokens that a cache of fixed size changes."""
    prompt = prompt_of(subject)
    static = subject.model.generate(prompt, cache_implementation="static", **GREEDY)
    return int((static != subject.model.generate(prompt, **GREEDY)).sum())


def read_tokenizer(subject: Subject):
    tokenizer = AutoTokenizer.from_pretrained(subject.folder, trust_remote_code=True)
    rows = subject.model.config.vocab_size
    if len(tokenizer) > rows:
        raise SystemExit(f"{len(tokenizer)} tokens for {rows} rows")
    return tokenizer


def tokenizer_ids(subject: Subject) -> int | None:
    """Texts that get other ids than from the original tokenizer, all of them being text."""
    if "texts" not in subject.probe:
        return None
    tokenizer = read_tokenizer(subject)
    pairs = zip(subject.probe["texts"], subject.probe["ids"], strict=True)
    return sum(tokenizer(text, **AS_TEXT).input_ids != ids for text, ids in pairs)


def special_tokens(subject: Subject) -> int | None:
    """Special tokens that text does not become, or that config.json has under another id."""
    if "texts" not in subject.probe:
        return None
    tokenizer = read_tokenizer(subject)
    config = subject.model.config
    wrong = 0
    for name in ("bos", "eos", "pad"):
        piece = getattr(tokenizer, f"{name}_token")
        number = getattr(tokenizer, f"{name}_token_id")
        wrong += number != getattr(config, f"{name}_token_id")
        if piece is not None:
            ids = tokenizer(f"x{piece}", add_special_tokens=False).input_ids
            wrong += ids != [*tokenizer("x", add_special_tokens=False).input_ids, number]
            wrong += not tokenizer.decode(ids).endswith(piece)
    return wrong


COMPARISONS = (
    logits,
    cached,
    left_padded,
    packed,
    embeddings,
    eager_attention,
    exported,
    checkpointing,
    saved_and_loaded,
    greedy_tokens,
    static_cache_tokens,
    tokenizer_ids,
    special_tokens,
)


@torch.no_grad()
def main(folder: str, probe_path: str) -> None:
    probe = torch.load(probe_path, weights_only=True)
    model = load(folder)
    subject = Subject(folder, model, probe, model(probe["tokens_BT"], use_cache=False).logits)
    print(json.dumps({compare.__name__: compare(subject) for compare in COMPARISONS}))


if __name__ == "__main__":
    main(*sys.argv[1:])
