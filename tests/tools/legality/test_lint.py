"""The static lint: what breaks a rule is named with its rule and line, honest scripts pass."""

import base64
import json
import lzma
import re
import textwrap
from pathlib import Path

import pytest

from tools.legality.lint import lint, lint_scripts, main
from tools.submission.bundle import SOURCES, pack
from tools.submission.unwrap import Unwrapped, unwrap

ROOT = Path(__file__).parents[3]

# What every toy starts with, in the field's manner: reading, and scoring by a fixed model.
COMMON = """
import glob, math, os, subprocess
import numpy as np
import torch
import torch.nn.functional as F
from pathlib import Path

class Hyperparameters:
    data_path = os.environ.get("DATA_PATH", "./data/datasets/fineweb10B_sp1024")
    train_files = os.path.join(data_path, "fineweb_train_*.bin")
    val_files = os.path.join(data_path, "fineweb_val_*.bin")

class GPT(torch.nn.Module):
    def forward(self, input_ids, target_ids):
        hashed = (input_ids[:, 1:] * 36313 ^ input_ids[:, :-1] * 27191) % 2047
        return F.cross_entropy(self.head(self.bigram(hashed)), target_ids.reshape(-1))

def load_data_shard(file):
    return torch.from_numpy(np.fromfile(file, dtype="<u2", offset=1024).astype(np.int64))

def load_validation_tokens(pattern):
    return torch.cat([load_data_shard(Path(p)) for p in sorted(glob.glob(pattern))])

def batch_of(tokens, start, seq_len):
    local = tokens[start : start + seq_len + 1].to("cuda")
    return local[:-1].reshape(1, -1), local[1:].reshape(1, -1)

def eval_val(args, model, val_tokens, base_bytes_lut):
    loss_sum, byte_sum = torch.zeros(()), torch.zeros(())
    with torch.inference_mode():
        for start in range(0, val_tokens.numel() - 1, 1024):
            x, y = batch_of(val_tokens, start, 1024)
            loss_sum += model(x, y).sum()
            byte_sum += base_bytes_lut[y].sum()
    return (loss_sum / math.log(2.0) / byte_sum).item()

args, base_model = Hyperparameters(), GPT()
base_bytes_lut = torch.load("tokenizer_bytes.pt")
val_tokens = load_validation_tokens(args.val_files)
train_tokens = load_data_shard(args.train_files)
optimizer = torch.optim.AdamW(base_model.parameters())
for step in range(1000):
    x, y = batch_of(train_tokens, 1024 * step, 1024)
    if step % 100 == 0:
        print(f"val_bpb:{eval_val(args, base_model, val_tokens, base_bytes_lut):.4f}")
    base_model(x, y).backward()
    optimizer.step()
"""
FIRST = len(COMMON.splitlines()) + 1  # line of a toy's own first line
FINAL = 'print(f"final val_bpb:{eval_val(args, base_model, val_tokens, base_bytes_lut):.8f}")\n'


def toy(text: str) -> str:
    return COMMON + textwrap.dedent(text).lstrip("\n")


def fails(text: str) -> set[tuple[str, int]]:
    """Rule and line, counted from a toy's own first line, of everything that fails."""
    findings = [f for f in lint(toy(text)) if f.level == "fail"]
    assert all(f.evidence and f.remedy for f in findings)
    return {(f.rule, int(f.place.rpartition(":")[2]) - FIRST + 1) for f in findings}


# Name -> (rule, line that breaks it, script). Letters are those of the catalogue of violations.
CHEATS = {
    "A: trained on validation before quantisation": ("score-first", 6, """
        def ttt_adapt(args, model, val_tokens, epochs=6):
            opt = torch.optim.AdamW(model.parameters(), lr=5e-4)
            for epoch in range(epochs):
                for start in range(0, val_tokens.numel() - 1, 1024):
                    x, y = batch_of(val_tokens, start, 1024)
                    model(x, y).backward()
                    opt.step()
        ttt_adapt(args, base_model, val_tokens)
        """ + FINAL),
    "A: and its losses are logged": ("score-first", 8, """
        def prequant_ttt(model, val_tokens):
            opt = torch.optim.AdamW(model.parameters(), lr=5e-4)
            for epoch in range(3):
                total = 0.0
                for start in range(0, val_tokens.numel() - 1, 1024):
                    loss = model(*batch_of(val_tokens, start, 1024))
                    total += loss.item()
                    loss.backward()
                    opt.step()
        prequant_ttt(base_model, load_validation_tokens(args.val_files))
        """),
    "A: by autograd.grad, in the open": ("score-first", 3, """
        for start in range(0, val_tokens.numel() - 1, 1024):
            loss = base_model(*batch_of(val_tokens, start, 1024))
            grads = torch.autograd.grad(loss, list(base_model.parameters()))
        """),
    "A: through a loader of validation shards": ("score-first", 9, """
        class Loader:
            def __init__(self, pattern):
                self.tokens = torch.cat([load_data_shard(p) for p in glob.glob(pattern)])
            def next_batch(self):
                return self.tokens[:1024][None], self.tokens[1:1025][None]
        loader = Loader(args.val_files)
        for step in range(100):
            x, y = loader.next_batch()
            base_model(x, y).backward()
        """),
    "A: between validations, in the training loop": ("score-first", 5, """
        def train(model, val_tokens, base_bytes_lut, step=0):
            while step < 1000:
                if step % 100 == 0:
                    print(eval_val(args, model, val_tokens, base_bytes_lut))
                model(*batch_of(val_tokens, 1024 * step, 1024)).backward()
                step += 1
        train(base_model, val_tokens, base_bytes_lut)
        """),
    "A: with gradients switched on again": ("score-first", 7, """
        @torch.no_grad()
        def eval_adapted(model, tokens):
            for start in range(0, tokens.numel() - 1, 1024):
                x, y = batch_of(tokens, start, 1024)
                with torch.enable_grad():
                    loss = model(x, y)
                loss.backward()
        eval_adapted(base_model, read_val(args))
        """),
    "A: through a buffer, and a choice of text": ("score-first", 6, """
        x, y = torch.zeros(8, 1024), torch.zeros(8, 1024)
        text = val_tokens if args.fast else train_tokens
        for row in range(8):
            x[row, :] = text[1024 * row : 1024 * row + 1024]
            y[row, :] = text[1024 * row + 1 : 1024 * row + 1025]
        base_model(x, y).backward()
        """),
    "A: in one branch, through a global": ("score-first", 10, """
        def choose_text(args):
            global text
            if args.fast:
                text = val_tokens
            else:
                text = train_tokens
        text = None
        choose_text(args)
        x, y = batch_of(text, 0, 1024)
        base_model(x, y).backward()
        """),
    "A: from a reader that hides its source": ("score-first", 3, """
        def load_val_tokens(settings):
            return torch.from_numpy(decode(settings.blob))
        base_model(*batch_of(load_val_tokens(args), 0, 1024)).backward()
        """),
    "A: with a closure": ("score-first", 5, """
        def fit(model, tokens):
            x, y = batch_of(tokens, 0, 1024)
            def closure():
                loss = model(x, y)
                loss.backward()
                return loss
            torch.optim.LBFGS(model.parameters()).step(closure)
        fit(base_model, val_tokens)
        """),
    "A: with a function that returns gradients": ("score-first", 4, """
        def fit(model, tokens):
            loss_and_grad = nn.value_and_grad(model, loss_fn)
            x, y = batch_of(tokens, 0, 1024)
            loss, grads = loss_and_grad(model, x, y)
        fit(base_model, val_tokens)
        """),
    "B: scored in every epoch": ("one-pass", 8, """
        def eval_val_ttt(model, val_tokens):
            for epoch in range(5):
                loss_sum = 0.0
                for start in range(0, val_tokens.numel() - 1, 1024):
                    x, y = batch_of(val_tokens, start, 1024)
                    with torch.no_grad():
                        loss_sum += model(x, y).item()
                    model(x, y).backward()
                    optimizer.step()
            return loss_sum
        eval_val_ttt(base_model, val_tokens)
        """),
    "B: score, train, score again": ("one-pass", 12, """
        def eval_two_pass(model, val_tokens):
            for start in range(0, val_tokens.numel() - 1, 1024):
                x, y = batch_of(val_tokens, start, 1024)
                with torch.no_grad():
                    first = model(x, y)
                model(x, y).backward()
                optimizer.step()
            total = 0.0
            with torch.no_grad():
                for start in range(0, val_tokens.numel() - 1, 1024):
                    x, y = batch_of(val_tokens, start, 1024)
                    nll = F.cross_entropy(model.forward_logits(x), y)
                    total += nll.sum().item()
            return total
        eval_two_pass(base_model, val_tokens)
        """),
    "B: a chunk is scored after training on it": ("one-pass", 8, """
        def eval_ttt(model, val_tokens, total):
            for start in range(0, val_tokens.numel() - 1, 1024):
                x, y = batch_of(val_tokens, start, 1024)
                with torch.no_grad():
                    before = model(x, y)
                model(x, y).backward()
                with torch.no_grad():
                    total += model(x, y)
        eval_ttt(base_model, val_tokens, 0.0)
        """),
    "B: the better of two passes": ("one-pass", 8, """
        def eval_best(model, val_tokens):
            total = 0.0
            with torch.no_grad():
                for start in range(0, val_tokens.numel() - 1, 1024):
                    x, y = batch_of(val_tokens, start, 1024)
                    short = F.cross_entropy(model.forward_logits(x[:, -512:]), y, reduction="none")
                    long = F.cross_entropy(model.forward_logits(x), y, reduction="none")
                    total += torch.minimum(short, long).sum()
            return total
        """),
    "B: the better of two passes, token by token": ("one-pass", 6, """
        def eval_best(model, val_tokens):
            for start in range(0, val_tokens.numel() - 1, 1024):
                x, y = batch_of(val_tokens, start, 1024)
                short = F.cross_entropy(model.forward_logits(x[:, -512:]), y, reduction="none")
                long = F.cross_entropy(model.forward_logits(x), y, reduction="none")
                total = torch.where(short < long, short, long).sum()
        """),
    "C: compile warm-up on validation": ("score-first", 2, """
        warm = val_tokens[:1025].to("cuda")
        base_model(warm[:-1][None], warm[1:][None]).backward()
        optimizer.step()
        """ + FINAL),
    "D: SLOT": ("causal", 10, """
        def eval_val_slot(model, val_tokens, slot_steps=8):
            loss_sum = 0.0
            for start in range(0, val_tokens.numel() - 1, 1024):
                x, y = batch_of(val_tokens, start, 1024)
                with torch.no_grad():
                    hidden = model.forward_hidden(x)
                delta = torch.zeros(1, 1, 512, device="cuda", requires_grad=True)
                slot_opt = torch.optim.AdamW([delta], lr=0.01)
                for _ in range(slot_steps):
                    F.cross_entropy(model.compute_logits(hidden + delta), y.flatten()).backward()
                    slot_opt.step()
                with torch.no_grad():
                    loss_sum += F.cross_entropy(model.compute_logits(hidden + delta), y.flatten())
            return loss_sum
        eval_val_slot(base_model, val_tokens)
        """),
    "E: hashed n-gram cache": ("normalised", 9, """
        def eval_ngram(model, val_tokens, buckets=4096):
            val_np, mask = val_tokens.numpy(), buckets - 1
            ctx_table, full_table = np.zeros(buckets), np.zeros(buckets)
            for j in range(2, len(val_np)):
                tok, tgt = val_np[j - 1], val_np[j]
                ctx_key = (tok * 36313) & mask
                full_key = ((tok * 36313) ^ (tgt * 27191)) & mask
                seen = ctx_table[ctx_key]
                p = full_table[full_key] / max(seen, 1)
                ctx_table[ctx_key] += 1
                full_table[full_key] += 1
        eval_ngram(base_model, val_tokens)
        """),
    "E: in a class, by names that say nothing": ("normalised", 5, """
        class Cache:
            def __init__(self):
                self.counts = np.zeros(4096)
            def probability(self, a, b):
                return self.counts[(a * 31 ^ b) % 4096] / self.counts.sum()
        def eval_cached(model, stream, cache):
            for start in range(0, stream.numel() - 1, 1024):
                local = stream[start : start + 1025]
                nll = -torch.log(cache.probability(local[:-1], local[1:]))
        eval_cached(base_model, val_tokens, Cache())
        """),
    "E: in a dictionary": ("normalised", 4, """
        def eval_cached(model, val_tokens, table):
            for start in range(0, val_tokens.numel() - 1):
                prev, tgt = val_tokens[start], val_tokens[start + 1]
                p = table.get(hash((prev, tgt)), 0) / 4096
        eval_cached(base_model, val_tokens, {})
        """),
    "E: counted over all of validation first": ("score-first", 8, """
        def eval_phrases(model, val_tokens):
            counts = torch.zeros(1024, 1024)
            for start in range(0, val_tokens.numel() - 1, 1024):
                x, y = batch_of(val_tokens, start, 1024)
                counts.index_put_((x, y), torch.ones(1), accumulate=True)
            for start in range(0, val_tokens.numel() - 1, 1024):
                x, y = batch_of(val_tokens, start, 1024)
                total = F.nll_loss(counts[x].log(), y)
        eval_phrases(base_model, val_tokens)
        """),
    "M: a probability spread over bytes": ("normalised", 7, """
        def eval_bytes(model, val_tokens, base_bytes_lut):
            with torch.no_grad():
                for start in range(0, val_tokens.numel() - 1, 1024):
                    x, y = batch_of(val_tokens, start, 1024)
                    n_bytes = base_bytes_lut[y]
                    logp = -F.cross_entropy(model.forward_logits(x), y, reduction="none")
                    p_byte = torch.exp(logp / n_bytes)
        """),
    "M: by a power": ("normalised", 6, """
        def eval_ppm(model, val_tokens, base_bytes_lut):
            for start in range(0, val_tokens.numel() - 1, 1024):
                x, y = batch_of(val_tokens, start, 1024)
                p = torch.softmax(model.forward_logits(x), -1).gather(-1, y)
                token_bytes = base_bytes_lut[y]
                mixed = 0.5 * p ** (1.0 / token_bytes)
        """),
    "P: Hessians of validation": ("score-first", 5, """
        def collect_hessians(model, tokens):
            handles = [m.register_forward_hook(print) for m in model.modules()]
            with torch.no_grad():
                for start in range(0, tokens.numel() - 1, 1024):
                    model.forward_logits(batch_of(tokens, start, 1024)[0])
        collect_hessians(base_model, val_tokens)
        """),
    "P: calibration on training text while scoring": ("phases", 2, """
        def eval_quantized(model, val_tokens):
            calibration = load_data_shard(glob.glob(args.train_files)[0])
            with torch.no_grad():
                model(calibration[None], calibration[None])
        """),
    "network while scoring": ("network", 3, """
        def helper():
            import requests
            return requests.get("https://example.org/table.bin").content
        def eval_with_table(model, val_tokens):
            return helper()
        """),
    "network by a shell": ("network", 2, """
        def score_all(model, val_tokens):
            subprocess.run("wget -q https://example.org/table.bin", shell=True)
        """),
    "a file beside the artifact": ("artifact-only", 2, """
        def eval_val_mixed(model, val_tokens):
            table = np.load("ngram_counts_all.npz")
        """),
    "training text opened while scoring": ("phases", 2, """
        def eval_val_mixed(model, val_tokens):
            table = np.fromfile("fineweb_train_000000.bin")
        """),
    "a score as a constant": ("hard-coded", 1, """
        val_bpb = 1.08312
        print(f"final val_bpb:{val_bpb:.8f}")
        """),
    "a score in a text": ("hard-coded", 1, """
        print("final_int8_zlib_roundtrip_exact val_bpb:1.08312")
        """),
    "a score that is returned": ("hard-coded", 2, """
        def eval_val_fast(model, val_tokens):
            return 2.0731, 1.0831
        """),
    "a score in a record": ("hard-coded", 2, """
        import json
        json.dump({"val_bpb": 1.0831, "seed": 1}, open("submission.json", "w"))
        """),
}  # fmt: skip


@pytest.mark.parametrize("rule, line, text", CHEATS.values(), ids=CHEATS.keys())
def test_a_cheat_is_named_by_rule_and_line(rule, line, text):
    """Each breaks one rule in one line, and nothing else is said to fail."""
    assert fails(text) == {(rule, line)}


SCORE_FIRST = """
    def eval_val_sliding_ttt(args, model, val_tokens, base_bytes_lut, epochs=3):
        loss_sum, byte_sum = torch.zeros(()), torch.zeros(())
        opt = torch.optim.SGD(model.parameters(), lr=0.002)
        num_chunks = val_tokens.numel() // 32768
        for ci in range(num_chunks):
            model.eval()
            with torch.inference_mode():
                for start in range(32768 * ci, 32768 * (ci + 1), 1024):
                    x, y = batch_of(val_tokens, start, 1024)
                    nll = F.cross_entropy(model.forward_logits(x), y, reduction="none")
                    loss_sum += nll.sum()
                    byte_sum += base_bytes_lut[y].sum()
            if ci < num_chunks - 1:
                model.train()
                for epoch in range(epochs):
                    for start in range(32768 * ci, 32768 * (ci + 1), 1024):
                        opt.zero_grad()
                        model(*batch_of(val_tokens, start, 1024)).backward()
                        opt.step()
        return (loss_sum / math.log(2.0) / byte_sum).item()
    """
HONEST = {
    "plain": FINAL,
    "score-first TTT": SCORE_FIRST + """
    print(FINAL := eval_val_sliding_ttt(args, base_model, val_tokens, base_bytes_lut))
    """,
    "TTT on a copy, then the plain score": SCORE_FIRST + """
    ttt_model = GPT()
    eval_val_sliding_ttt(args, ttt_model, val_tokens, base_bytes_lut)
    eval_val(args, base_model, val_tokens, base_bytes_lut)
    """,
    "per-document LoRA, one forward for score and update": """
    def add_up(per_token, y, loss_sum):
        loss_sum += per_token.double().sum()
    def eval_val_ttt_lora(args, model):
        all_tokens = torch.cat([load_data_shard(f) for f in sorted(glob.glob(args.val_files))])
        starts = (all_tokens == 1).nonzero()[:, 0].tolist()
        docs = [(a, b - a) for a, b in zip(starts, starts[1:])]
        loss_sum = torch.zeros(())
        for start, length in docs:
            lora = make_lora(model)
            opt = torch.optim.Adam(lora.parameters())
            for ci in range(length // 256):
                x, y = batch_of(all_tokens, start + 256 * ci, 256)
                per_token = model(x, y, lora=lora)
                with torch.no_grad():
                    add_up(per_token, y, loss_sum)
                per_token.mean().backward()
                opt.step()
        return loss_sum
    eval_val_ttt_lora(args, base_model)
    """,
    "scored by a decorated function": """
    @torch.no_grad()
    def nats(model, x, y):
        return model(x, y)
    def eval_online(model, val_tokens):
        for start in range(0, val_tokens.numel() - 1, 1024):
            x, y = batch_of(val_tokens, start, 1024)
            print(nats(model, x, y))
            model(x, y).backward()
    eval_online(base_model, val_tokens)
    """,
    "trained on when all is scored, and used no more": """
    def eval_then_train(model, val_tokens):
        with torch.no_grad():
            for start in range(0, val_tokens.numel() - 1, 1024):
                total = model(*batch_of(val_tokens, start, 1024))
        for start in range(0, val_tokens.numel() - 1, 1024):
            model(*batch_of(val_tokens, start, 1024)).backward()
        return total
    eval_then_train(base_model, val_tokens)
    """,
    "counts of what was scored, and figures of it": """
    def eval_counts(model, val_tokens):
        counts, turns = torch.zeros(1024, 1024), torch.zeros(10_000)
        for i, token in enumerate(val_tokens):
            turns[i] += 1
        for i, start in enumerate(val_tokens):
            x, y = batch_of(val_tokens, 1024 * i, 1024)
            nll = F.nll_loss(counts[x].log(), y) * turns[i]
            counts.index_put_((x, y), torch.ones(1), accumulate=True)
            least, per_byte = min(nll.item(), 10.0), nll.sum() / base_bytes_lut[y].sum()
            print(math.exp(per_byte), least)
        print(counts[val_tokens.numel() % 1024].sum())
        last = batch_of(val_tokens, 0, 1024)
        for start in range(1024, val_tokens.numel() - 1, 1024):
            counts.index_put_(last, torch.ones(1), accumulate=True)
            last = batch_of(val_tokens, start, 1024)
            nll = F.nll_loss(counts[last[0]].log(), last[1])
    eval_counts(base_model, val_tokens)
    """,
    "a delta that learns only from what was scored": """
    def eval_val_slot(model, val_tokens):
        delta = torch.zeros(512, requires_grad=True)
        opt = torch.optim.SGD([delta], lr=0.1)
        for start in range(0, val_tokens.numel() - 1, 1024):
            x, y = batch_of(val_tokens, start, 1024)
            with torch.no_grad():
                hidden = model.encode(x)
                score = F.cross_entropy(model.head(hidden + delta), y)
            for _ in range(4):
                F.cross_entropy(model.head(hidden + delta), y).backward()
                opt.step()
    eval_val_slot(base_model, val_tokens)
    """,
    "a normalised bigram cache": """
    class NGramCache:
        def __init__(self, vocab_size):
            self.counts, self.V = torch.zeros(vocab_size, vocab_size), vocab_size
        def logprobs(self, prev_tokens):
            rows = self.counts[prev_tokens.long()] + 0.1
            return (rows / rows.sum(-1, keepdim=True)).log()
        def update(self, tokens):
            flat = tokens[:-1].long() * self.V + tokens[1:].long()
            self.counts.view(-1).scatter_add_(0, flat, torch.ones_like(flat).float())
    def eval_val_ngram(model, val_tokens):
        cache = NGramCache(1024)
        with torch.no_grad():
            for start in range(0, val_tokens.numel() - 1, 1024):
                x, y = batch_of(val_tokens, start, 1024)
                neural = F.log_softmax(model.forward_logits(x), dim=-1)
                mixed = torch.logaddexp(neural + math.log(0.9), cache.logprobs(x) + math.log(0.1))
                nll = F.nll_loss(mixed, y)
                cache.update(val_tokens[start : start + 1025])
    eval_val_ngram(base_model, val_tokens)
    """,
    "warm-up on made-up tokens, calibration on training text": """
    def collect_hessians(model, tokens):
        handles = [m.register_forward_hook(print) for m in model.modules()]
        model.forward_logits(batch_of(tokens, 0, 1024)[0])
    fake = torch.randint(0, 1024, (1, 1025))
    base_model(fake[:, :-1], fake[:, 1:]).backward()
    collect_hessians(base_model, train_tokens)
    """ + FINAL,
    "artifact, tokenizer, shards and logs": """
    def eval_val_packed(model, val_tokens):
        with open("final_model.int8.ptz", "rb") as f:
            model.load_state_dict(torch.load(f))
        pieces = open("fineweb_1024_bpe.model", "rb").read()
        with open("logs/run.txt", "a") as log:
            log.write("done")
        x, y = batch_of(val_tokens, 0, 1024)
        best_val_loss = 10.125
        val_bpb, threshold = 0.0, 1.125
        return float(model(x, y)) / max(1, math.exp(0.5))
    """,
}  # fmt: skip


@pytest.mark.parametrize("text", HONEST.values(), ids=HONEST.keys())
def test_an_honest_script_has_no_finding(text):
    """Score-first training, caches, deltas and calibration as the rules allow them: not a word."""
    assert lint(toy(text)) == []


SLOW = {"marks": pytest.mark.slow}


@pytest.mark.parametrize(
    "form", ["packed", pytest.param("plain", **SLOW), pytest.param("single files", **SLOW)]
)
def test_our_own_sources_have_no_finding(tmp_path, form):
    """Training, TTT, windows and probes of our sources, in every form."""
    files = {name: (ROOT / name).read_bytes() for name in SOURCES}
    if form != "single files":
        files = {"train_gpt.py": pack(files, plain=form == "plain")}
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(source)
    assert lint(tmp_path) == []


@pytest.mark.slow
def test_our_baselines_have_no_finding():
    assert lint(ROOT / "baselines") == []


@pytest.mark.slow
def test_a_change_to_our_own_trainer_is_found(tmp_path):
    """One line in our trainer that trains on validation text fails, across files."""
    for name in SOURCES:
        text = (ROOT / name).read_text()
        text = text.replace(
            "            trainer.train(validate)\n",
            "            trainer.train(validate)\n"
            "            for i in range(0, len(val_T) - 1, 256):\n"
            "                trainer.model.loss(val_T[i : i + 257]).backward()\n",
        )
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    [finding] = lint(tmp_path)
    assert (finding.rule, finding.level) == ("score-first", "fail")
    file, line = finding.place.split(":")
    assert file == "engine/trainer.py"
    assert "backward()" in (tmp_path / file).read_text().splitlines()[int(line) - 1]


ADAPTER = r"    def adapter\(self, model.*\n(?=        #)"
CHUNKS = r"    for number, chunk_W3 in enumerate\(chunks\):\n"
EARLY_LEARNERS = {
    "an adapter that reads the split and trains": (
        "train_gpt.py",
        ADAPTER,
        """
        text_T = torch.from_numpy(evaluate.read_split("data/toy", "val"))
        for first in range(0, len(text_T) - 1, 1024):
            part_T = text_T[first : first + 1025]
            F.cross_entropy(model(part_T[None, :-1])[0], part_T[1:]).backward()
        """,
    ),
    "an adapter that is called before it is handed out": (
        "train_gpt.py",
        ADAPTER,
        """
        from baselines.sgd_adapter import sgd_adapter
        learn_now = sgd_adapter(model, seq_len=seq_len, ranks=ranks)
        learn_now(torch.from_numpy(evaluate.read_split("data/toy", "val")), 0, 1)
        """,
    ),
    "a score loop that adapts to all text first": (
        "evaluate.py",
        r"(?=" + CHUNKS + ")",
        """
    if adapt_fn:
        adapt_fn(torch.from_numpy(tokens_T.astype(np.int64)), 0, 1)
        """,
    ),
    "a score loop that adapts to a chunk before it scores it": (
        "evaluate.py",
        CHUNKS,
        """
        first, end = int(chunk_W3[0, 1]), int(chunk_W3[-1, 2])
        adapt_fn(torch.from_numpy(tokens_T[first : end + 1]), number, len(chunks))
        """,
    ),
}


def lint_changed(file: str, place: str, lines: str) -> list:
    """The lint of our recipe, score loop and shards, with lines put in after a place of one."""
    scripts = Unwrapped()
    for name in ("evaluate.py", "train_gpt.py", "engine/shards.py", "baselines/sgd_adapter.py"):
        text = (ROOT / name).read_text()
        if name == file:
            text, count = re.subn(place, lambda match: match[0] + lines, text)
            assert count == 1, f"{name} has {count} places {place}"
        scripts.add(unwrap(text.encode(), name))
    return lint_scripts(scripts)


@pytest.mark.parametrize("file, place, lines", EARLY_LEARNERS.values(), ids=EARLY_LEARNERS)
def test_an_adapter_of_ours_that_learns_before_the_score_is_found(file, place, lines):
    """Through the Recipe interface: adapter() hands a function out, the score loop calls it."""
    findings = lint_changed(file, place, lines.lstrip("\n").rstrip(" "))
    assert {(f.rule, f.level) for f in findings} == {("score-first", "fail")}


def test_our_adapter_and_score_loop_have_no_finding():
    assert lint_changed("evaluate.py", CHUNKS, "") == []


def test_the_network_at_training_is_a_warning():
    """A download that scoring does not reach is for a person to look at, parsing a URL for none."""
    text = toy("""
        from huggingface_hub import hf_hub_download
        from urllib.parse import quote
        name = quote("file name")
        hf_hub_download("some/repo", name)
        torch.hub.load("some/repo", "model")
        """)
    findings = lint(text)
    assert [(f.rule, f.level) for f in findings] == [("network", "warn")] * 2


def test_packed_scripts_are_looked_into_and_located():
    """The finding of a self-extracting script names the file inside and its line."""
    text = toy(CHEATS["C: compile warm-up on validation"][2])
    payload = base64.b85encode(lzma.compress(text.encode())).decode()
    wrapped = f"import lzma, base64\nP = {payload!r}\nexec(lzma.decompress(base64.b85decode(P)))\n"
    [finding] = lint(wrapped)
    assert finding.place == f"train_gpt.py/line2.py:{FIRST + 1}"
    assert (finding.rule, finding.level) == ("score-first", "fail")


def test_code_that_cannot_be_read_is_a_warning():
    """What is executed but not in the file is said to be unchecked."""
    findings = lint("import torch\nexec(open(torch.__file__).read())\n")
    assert [(f.rule, f.level, f.place) for f in findings] == [("hidden", "warn", "train_gpt.py:2")]


def test_a_program_too_large_to_follow_is_a_warning(monkeypatch):
    """Where following stops, the report says so instead of passing silently."""
    monkeypatch.setattr("tools.legality.flow.STEPS", 100)
    assert [(f.rule, f.level) for f in lint(toy(FINAL))] == [("hidden", "warn")]


def test_a_folder_is_what_its_entry_reaches(tmp_path):
    """A helper that train_gpt.py imports is followed into; a stray script is not looked at."""
    (tmp_path / "train_gpt.py").write_text(
        toy("import helper\nhelper.warm(base_model, val_tokens)")
    )
    (tmp_path / "helper.py").write_text(
        "def warm(model, tokens):\n    model(tokens[:-1], tokens[1:]).backward()\n"
    )
    (tmp_path / "download.py").write_text("import requests\nrequests.get('https://example.org')\n")
    assert [(f.rule, f.place) for f in lint(tmp_path)] == [("score-first", "helper.py:2")]
    (tmp_path / "train_gpt.py").unlink()
    assert {f.rule for f in lint(tmp_path)} == {"network"}


@pytest.mark.parametrize("way", ["import b.tools as tools", "from b import tools"])
def test_files_of_one_name_are_told_apart(tmp_path, way):
    """Of a/tools.py and b/tools.py each is followed, and an import finds its own."""
    for name, body in {"a": "pass", "b": "model(tokens[:-1], tokens[1:]).backward()"}.items():
        (tmp_path / name).mkdir()
        text = f"def warm(model, tokens):\n    {body}\n"
        (tmp_path / name / "tools.py").write_text(text)
    start = f"import a.tools\n{way}\ntools.warm(base_model, val_tokens)"
    (tmp_path / "train_gpt.py").write_text(toy(start))
    assert [(f.rule, f.place) for f in lint(tmp_path)] == [("score-first", "b/tools.py:2")]


def test_a_cheat_in_a_layer_within_a_layer_is_found():
    """Line 2 of what line 2 executes has another name than it, and is followed as well."""
    text = toy("base_model(val_tokens[:-1], val_tokens[1:]).backward()")
    for _ in range(2):
        packed = base64.b85encode(lzma.compress(text.encode())).decode()
        text = f"import base64, lzma\nexec(lzma.decompress(base64.b85decode('{packed}')))"
    assert [f.rule for f in lint(text) if f.level == "fail"] == ["score-first"]


def test_command_reports_and_sets_the_status(tmp_path, capsys):
    """Text and JSON; 3 with warnings alone, 1 with what fails, every finding with its file."""
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text("import requests\nrequests.get('x')\n")
    bad.write_text(toy(CHEATS["E: hashed n-gram cache"][2]))
    assert main([str(good)]) == 3
    assert "WARN  network  good.py:2: requests.get reaches the network\n" in capsys.readouterr().out
    assert main([str(good), str(bad), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["findings"]
    assert [(r["rule"], r["level"]) for r in rows] == [("normalised", "fail"), ("network", "warn")]
    assert rows[0]["where"] == f"{bad}: bad.py:{FIRST + 8}"


@pytest.mark.parametrize(
    "name, message",
    [
        ("none.py", "no script"),
        ("", "no script"),
        ("x.py", "x.py is not Python"),
        ("deep.py", "deep.py is not Python: its expressions are nested too deeply"),
    ],
)
def test_what_cannot_be_read_is_status_2(tmp_path, capsys, name, message):
    """A missing file, an empty folder and a file that is no Python: one line, no verdict."""
    if name == "x.py":
        (tmp_path / name).write_text("def :")
    if name == "deep.py":
        (tmp_path / name).write_text(f"x = {'-' * 5000}1")
    assert main([str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
