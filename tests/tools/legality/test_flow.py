"""Patterns that the rules forbid are told by data flow, whatever the names; honest twins pass."""

import ast
import builtins
import random
import textwrap

import pytest

from tools.legality.lint import lint

HEAD = """
import math, os, time
import numpy as np
import torch
import torch.nn.functional as F
"""

# Class of violation -> variants. Each is a whole script, or an excerpt as a function of a script.
ILLEGAL = {
    "trained before quantisation": [
        """
        def load(path):
            return torch.from_numpy(np.fromfile(path, dtype=np.uint16, offset=1024).astype("i8"))
        def adapt(model, stream, steps):
            opt = torch.optim.AdamW(model.parameters(), lr=1e-4)
            for i in range(steps):
                part = stream[1024 * i : 1024 * i + 1025]
                loss = F.cross_entropy(model(part[:-1]), part[1:])
                loss.backward()
                opt.step()
        net = Net()
        adapt(net, load("data/fineweb_val_000000.bin"), 100)
        blob = quantize(net.state_dict())
        """,
        """
        def tune_then_score(model, tokens, opt):
            for start in range(0, len(tokens) - 1, 512):
                x = tokens[start : start + 512]
                y = tokens[start + 1 : start + 513]
                logits = model(x)
                F.cross_entropy(logits.view(-1, 1024), y.view(-1)).backward()
                opt.step()
            total = 0.0
            with torch.no_grad():
                for start in range(0, len(tokens) - 1, 512):
                    x = tokens[start : start + 512]
                    y = tokens[start + 1 : start + 513]
                    total += F.cross_entropy(model(x).view(-1, 1024), y.view(-1), reduction="sum")
            return total
        """,
        """
        class Shards:
            def __init__(self, pattern):
                self.data = torch.load(pattern)
                self.at = 0
            def take(self, n):
                piece = self.data[self.at : self.at + n + 1]
                self.at += n
                return piece[:-1], piece[1:]
        class Settings:
            val_files = os.environ.get("VAL_FILES", "fineweb_val_*.bin")
        hp = Settings()
        source = Shards(hp.val_files)
        net = Net()
        opt = torch.optim.SGD(net.parameters(), lr=1e-3)
        for step in range(50):
            a, b = source.take(1024)
            grads = torch.autograd.grad(F.cross_entropy(net(a), b), list(net.parameters()))
            for p, g in zip(net.parameters(), grads):
                p.data.add_(g, alpha=-1e-3)
        """,
        """
        class Windows(torch.utils.data.Dataset):
            def __init__(self, path, width):
                raw = np.fromfile(path, dtype="<u2", offset=1024)
                self.ids = torch.from_numpy(raw.astype("int64"))
                self.width = width
            def __len__(self):
                return (len(self.ids) - 1) // self.width
            def __getitem__(self, k):
                s = k * self.width
                return self.ids[s : s + self.width], self.ids[s + 1 : s + self.width + 1]
        def finetune(net, loader, lr):
            opt = torch.optim.AdamW(net.parameters(), lr=lr)
            for a, b in loader:
                logits = net(a)
                loss = F.cross_entropy(logits.flatten(0, 1), b.flatten())
                opt.zero_grad()
                loss.backward()
                opt.step()
        if __name__ == "__main__":
            net = Net()
            pieces = Windows("fineweb_val_000000.bin", 1024)
            finetune(net, torch.utils.data.DataLoader(pieces, batch_size=8), 1e-5)
            torch.save(net.state_dict(), "m.pt")
        """,
    ],
    "scored in every epoch": [
        """
        def run(model, tokens, opt):
            for epoch in range(3):
                nats = 0.0
                for i in range(0, len(tokens) - 1, 1024):
                    x, y = tokens[i : i + 1024], tokens[i + 1 : i + 1025]
                    with torch.no_grad():
                        nats += F.cross_entropy(model(x), y, reduction="sum").item()
                    F.cross_entropy(model(x), y).backward()
                    opt.step()
            return nats
        """,
        """
        def score(model, x, y):
            with torch.inference_mode():
                return F.cross_entropy(model(x), y)
        def learn(model, x, y, opt):
            F.cross_entropy(model(x), y).backward()
            opt.step()
        def main(model, opt):
            text = torch.load("val_tokens.pt")
            chunks = text.split(1025)
            for epoch in range(int(os.environ.get("EPOCHS", "3"))):
                result = []
                for chunk in chunks:
                    result.append(score(model, chunk[:-1], chunk[1:]))
                    learn(model, chunk[:-1], chunk[1:], opt)
            print(sum(result) / len(result))
        main(Net(), None)
        """,
        """
        def two_passes(model, tokens, opt):
            first = 0.0
            for i in range(0, len(tokens) - 1, 1024):
                x, y = tokens[i : i + 1024], tokens[i + 1 : i + 1025]
                with torch.no_grad():
                    first += F.cross_entropy(model(x), y)
                F.cross_entropy(model(x), y).backward()
                opt.step()
            second = 0.0
            for i in range(0, len(tokens) - 1, 1024):
                x, y = tokens[i : i + 1024], tokens[i + 1 : i + 1025]
                with torch.no_grad():
                    second += F.cross_entropy(model(x), y)
            return second
        """,
        """
        def ttt_eval(model, toks, opt, passes):
            done = 0
            acc = []
            while done < passes:
                acc = []
                for piece in torch.split(toks, 1025):
                    with torch.inference_mode():
                        loss = F.cross_entropy(model(piece[:-1]), piece[1:], reduction="sum")
                        acc.append(loss.item())
                    F.cross_entropy(model(piece[:-1]), piece[1:]).backward()
                    opt.step()
                done += 1
            return sum(acc)
        """,
        """
        def score(model, tokens, step=None):
            nats = 0.0
            for i in range(0, len(tokens) - 1, 1024):
                x, y = tokens[i : i + 1024], tokens[i + 1 : i + 1025]
                with torch.no_grad():
                    nats += F.cross_entropy(model(x), y, reduction="sum").item()
                if step and i + 1025 < len(tokens):
                    F.cross_entropy(model(x), y).backward()
                    step()
            return nats / len(tokens)
        def main():
            model = Net()
            text = torch.load("fineweb_val_000000.bin")
            score(model, text, torch.optim.SGD(model.parameters(), lr=0.1).step)
            print("final", score(model, text))
        main()
        """,
    ],
    "SLOT": [
        """
        def evaluate(model, tokens):
            x, y = tokens[:-1], tokens[1:]
            h = model.hidden(x)
            delta = torch.zeros(1, h.shape[-1], requires_grad=True)
            opt = torch.optim.SGD([delta], lr=0.1)
            for _ in range(8):
                opt.zero_grad()
                F.cross_entropy(model.head(h + delta), y).backward()
                opt.step()
            with torch.no_grad():
                return F.cross_entropy(model.head(h + delta), y)
        """,
        """
        def evaluate(model, batches):
            nats = 0.0
            for x, y in batches:
                bias = torch.nn.Parameter(torch.zeros(1024))
                opt = torch.optim.AdamW([bias], lr=0.01)
                with torch.no_grad():
                    logits = model(x)
                for _ in range(5):
                    loss = F.cross_entropy(logits + bias, y)
                    loss.backward()
                    opt.step()
                with torch.no_grad():
                    nats += F.cross_entropy(logits + bias, y, reduction="sum")
            return nats
        """,
        """
        def fit_shift(h, head, y, steps):
            shift = torch.zeros(h.shape[-1], requires_grad=True)
            for _ in range(steps):
                loss = F.nll_loss(F.log_softmax(head(h + shift), -1), y)
                (g,) = torch.autograd.grad(loss, [shift])
                shift = (shift - 0.1 * g).detach().requires_grad_()
            return shift
        def total(model, val_path="fineweb_val_000000.bin"):
            text = torch.from_numpy(np.memmap(val_path, dtype=np.uint16)[512:].astype(np.int64))
            out = 0.0
            for i in range(0, text.numel() - 1, 1024):
                x, y = text[i : i + 1024], text[i + 1 : i + 1025]
                with torch.no_grad():
                    h = model.encode(x)
                shift = fit_shift(h, model.head, y, 4)
                with torch.no_grad():
                    out += F.cross_entropy(model.head(h + shift), y, reduction="sum")
            return out
        print(total(Net()))
        """,
        """
        def score_window(net, ids):
            src, dst = ids[:-1], ids[1:]
            feats = net.trunk(src).detach()
            w = {"b": torch.zeros(feats.size(-1))}
            def objective(w):
                return F.cross_entropy(net.lm_head(feats + w["b"]), dst)
            for _ in range(6):
                g = torch.func.grad(objective)(w)
                w = {k: v - 0.05 * g[k] for k, v in w.items()}
            with torch.no_grad():
                return F.cross_entropy(net.lm_head(feats + w["b"]), dst, reduction="none").sum()
        def total(net, ids):
            return sum(score_window(net, ids[i : i + 1025]) for i in range(0, len(ids) - 1, 1024))
        """,
        """
        def closed_form(net, tokens, vocab):
            out = 0.0
            for i in range(0, len(tokens) - 1, 512):
                x, y = tokens[i : i + 512], tokens[i + 1 : i + 513]
                with torch.no_grad():
                    lg = net(x)
                    err = F.one_hot(y, vocab).float() - lg.softmax(-1)
                    bias = 0.3 * err.mean(0)
                    out += F.cross_entropy(lg + bias, y, reduction="sum").item()
            return out
        """,
    ],
    "hashed n-gram": [
        """
        def mix(tokens, p_model, buckets):
            seen, both = np.zeros(buckets), np.zeros(buckets)
            out = []
            for j in range(2, len(tokens)):
                ctx = (tokens[j - 1] * 36313 ^ tokens[j - 2] * 27191) % buckets
                full = (ctx ^ tokens[j] * 65537) % buckets
                p = both[full] / max(seen[ctx], 1)
                out.append(-math.log(0.7 * p_model[j] + 0.3 * p))
                seen[ctx] += 1
                both[full] += 1
            return sum(out)
        """,
        """
        def cached(tokens, logp, order, size):
            table = {n: (np.zeros(size), np.zeros(size)) for n in range(2, order)}
            n = 3
            a, b = np.zeros(size, dtype=np.uint32), np.zeros(size, dtype=np.uint32)
            j = np.arange(n, len(tokens))
            h = np.zeros(len(j), dtype=np.uint64)
            for k in range(1, n):
                h = h ^ (tokens[j - k].astype(np.uint64) * np.uint64(36313 + k))
            key = (h & np.uint64(size - 1)).astype(np.int64)
            full = ((h ^ (tokens[j].astype(np.uint64) * np.uint64(27191))) & np.uint64(size - 1))
            p = b[full] / np.maximum(a[key], 1)
            np.add.at(a, key, 1)
            np.add.at(b, full, 1)
            return np.log(0.5 * np.exp(logp) + 0.5 * p)
        """,
        """
        text = np.fromfile("fineweb_val_000000.bin", dtype=np.uint16)
        counts = {}
        for i in range(1, len(text)):
            where = hash((int(text[i - 1]), int(text[i]))) % 4096
            p = counts.get(where, 0) / 4096
            counts[where] = counts.get(where, 0) + 1
        """,
        """
        def ngram_probs(ids, n, size):
            ctx = torch.zeros(len(ids) - n, dtype=torch.long)
            for k in range(n):
                ctx = (ctx * 1000003 + ids[k : len(ids) - n + k]) % size
            full = (ctx * 1000003 + ids[n:]) % size
            a = torch.zeros(size).scatter_add_(0, ctx, torch.ones(len(ctx)))
            b = torch.zeros(size).scatter_add_(0, full, torch.ones(len(full)))
            return b[full] / a[ctx].clamp_min(1)
        def final(ids, lp):
            q = ngram_probs(ids, 5, 1 << 22)
            return -torch.log(0.5 * lp[5:].exp() + 0.5 * q).sum()
        """,
        """
        from collections import defaultdict
        def expert(tokens, logp):
            pair, single = defaultdict(int), defaultdict(int)
            total = 0.0
            for i in range(3, len(tokens)):
                ctx = zlib.crc32(tokens[i - 3 : i].tobytes()) % 65536
                key = zlib.crc32(tokens[i - 3 : i + 1].tobytes()) % 65536
                p = pair[key] / (single[ctx] + 1e-9)
                total -= math.log(0.8 * math.exp(logp[i]) + 0.2 * p)
                pair[key] += 1
                single[ctx] += 1
            return total
        import zlib
        """,
        """
        class Cache:
            def __init__(self, n):
                self.n = n
                self.table = {}
            def key(self, ctx, nxt):
                return hash(tuple(ctx) + (nxt,)) % self.n
            def p(self, ctx, nxt):
                hit = self.table.get(self.key(ctx, nxt), 0)
                tot = self.table.get(self.key(ctx, -1), 0)
                return hit / tot if tot else 0.0
            def add(self, ctx, nxt):
                for t in (nxt, -1):
                    k = self.key(ctx, t)
                    self.table[k] = self.table.get(k, 0) + 1
        def run(tokens, lp):
            cache, bits = Cache(1 << 20), 0.0
            for i in range(3, len(tokens)):
                ctx, nxt = tokens[i - 3 : i].tolist(), int(tokens[i])
                bits -= math.log2(0.75 * math.exp(lp[i]) + 0.25 * cache.p(ctx, nxt))
                cache.add(ctx, nxt)
            return bits
        """,
    ],
    "byte mixtures": [
        """
        def ppm(logp, targets, sp):
            sizes = np.array([len(sp.id_to_piece(i).encode()) for i in range(sp.vocab_size())])
            n = sizes[targets]
            p = np.exp(np.repeat(logp, n) / np.repeat(n, n))
            return -np.log2(0.5 * p + 0.5 / 256).mean()
        """,
        """
        def blend(nll, tokens, pieces, coder):
            bits = 0.0
            for t, v in zip(tokens, nll):
                raw = pieces[t].encode("utf-8")
                each = -v / len(raw)
                for c in raw:
                    bits -= math.log2(0.6 * math.exp(each) + 0.4 * coder.p(c))
                    coder.see(c)
            return bits
        """,
        """
        def combine(model, tokens, lut, byte_model):
            x, y = tokens[:-1], tokens[1:]
            with torch.no_grad():
                lp = F.log_softmax(model(x), -1).gather(-1, y[:, None])[:, 0]
            per = lp / lut[y]
            spread = torch.repeat_interleave(per, lut[y])
            return torch.logaddexp(spread + math.log(0.5), byte_model(y) + math.log(0.5)).sum()
        """,
        """
        def geometric(p, y, sp):
            width = torch.tensor([len(sp.decode([i]).encode("utf-8")) for i in range(1024)])
            q = p ** (1.0 / width[y])
            return -(0.5 * q + 0.5 / 256).log2().sum()
        """,
        """
        def bits_of(ids, lp, vocab_bytes, coder):
            out = 0.0
            for i, t in enumerate(ids):
                data = vocab_bytes[t]
                n = len(data)
                for k in range(n):
                    p_tok = np.exp(lp[i] / n)
                    out -= np.log2(0.9 * p_tok + 0.1 * coder.prob(data[k]))
                    coder.push(data[k])
            return out
        """,
    ],
    "late calibration": [
        """
        def hessians(model, batches):
            sums = {}
            def hook(module, inputs, output):
                x = inputs[0].reshape(-1, inputs[0].shape[-1])
                sums[module] = sums.get(module, 0) + x.T @ x
            handles = [m.register_forward_hook(hook) for m in model.modules()]
            for x, y in batches:
                model(x)
            return sums
        net = Net()
        text = torch.load("fineweb_val_000000.bin")
        found = hessians(net, [(text[:-1], text[1:])])
        """,
        """
        limit = float(os.environ.get("MAX_WALLCLOCK_SECONDS", "600"))
        net = Net()
        opt = torch.optim.SGD(net.parameters(), lr=0.1)
        train = np.fromfile("fineweb_train_000001.bin", dtype=np.uint16)
        begun = time.perf_counter()
        for step in range(20000):
            piece = torch.from_numpy(train[1024 * step : 1024 * step + 1025].astype(np.int64))
            F.cross_entropy(net(piece[:-1]), piece[1:]).backward()
            opt.step()
            if time.perf_counter() - begun >= limit:
                break
        gram = 0
        for i in range(64):
            piece = torch.from_numpy(train[1024 * i : 1024 * i + 1024].astype(np.int64))
            acts = net.features(piece)
            gram = gram + acts.T @ acts
        pack(net, gram)
        """,
        """
        def collect(net, loader, n):
            sums = {}
            def gather(module, inputs, output):
                sums[module] = torch.addmm(sums[module], inputs[0].t(), inputs[0])
            for m in net.modules():
                m.register_forward_hook(gather)
            with torch.no_grad():
                for i in range(n):
                    x, y = loader.next_batch()
                    net(x)
            return sums
        class Loader:
            def __init__(self, pattern):
                self.t = torch.load(pattern)
            def next_batch(self):
                return self.t[:1024], self.t[1:1025]
        def main(args):
            net = Net()
            opt = torch.optim.SGD(net.parameters(), lr=0.1)
            loader = Loader(os.environ.get("TRAIN_FILES", "fineweb_train_*.bin"))
            cap_ms = 1000.0 * args.max_wallclock_seconds
            spent = 0.0
            t0 = time.perf_counter()
            step = 0
            while True:
                x, y = loader.next_batch()
                F.cross_entropy(net(x), y).backward()
                opt.step()
                step += 1
                spent = 1000.0 * (time.perf_counter() - t0)
                if spent >= cap_ms:
                    break
            return collect(net, loader, 64)
        """,
        """
        def train(cfg, net, loader, opt):
            t0 = time.perf_counter()
            elapsed_ms = 0.0
            step, last = 0, None
            while True:
                if last is not None and step >= last:
                    break
                x, y = loader.next_batch()
                net(x, y).backward()
                opt.step()
                step += 1
                elapsed_ms = 1000.0 * (time.perf_counter() - t0)
                if last is None and elapsed_ms >= 600_000:
                    last = step
            cov = {}
            for i in range(32):
                x, y = loader.next_batch()
                acts = net.activations(x)
                for k, a in acts.items():
                    cov[k] = cov.get(k, 0) + torch.einsum("ni,nj->ij", a, a)
            return cov
        class Loader:
            def __init__(self, files):
                self.t = torch.cat([torch.load(f) for f in files])
                self.i = 0
            def next_batch(self):
                self.i += 1024
                return self.t[self.i - 1024 : self.i], self.t[self.i - 1023 : self.i + 1]
        train(None, Net(), Loader(["fineweb_train_000001.bin"]), None)
        """,
        """
        def run(net, opt, train_iter):
            deadline = time.time() + 600
            while time.time() < deadline:
                x, y = next(train_iter)
                F.cross_entropy(net(x), y).backward()
                opt.step()
            stats = {}
            def note(name):
                def inner(mod, inp, out):
                    a = inp[0].detach().reshape(-1, inp[0].shape[-1])
                    stats[name] = stats.get(name, 0) + a.t().mm(a)
                return inner
            for name, mod in net.named_modules():
                mod.register_forward_hook(note(name))
            with torch.inference_mode():
                for _ in range(64):
                    net(next(train_iter)[0])
            return stats
        """,
    ],
    "hint gating": [
        """
        def tilt(logits, y, hint, beta):
            nll = F.cross_entropy(logits, y, reduction="none")
            hit = hint == y
            return torch.where(hit, nll - beta, nll).sum()
        """,
        """
        def tilted(model, tokens, guess, starts_word, beta):
            x, y = tokens[:-1], tokens[1:]
            gate = starts_word[y]
            logits = model(x)
            logits = logits + beta * F.one_hot(guess[x], 1024) * gate[:, None]
            with torch.no_grad():
                return F.cross_entropy(logits, y, reduction="sum")
        """,
        """
        def tilted(lp, tokens, table, beta):
            total = 0.0
            with torch.no_grad():
                for i in range(1, len(tokens)):
                    x, y = tokens[:-1], tokens[1:]
                    score = F.nll_loss(lp, y, reduction="none")
                    agrees = (table[x] == y).float()
                    total += (score - beta * agrees).sum()
            return total
        """,
        """
        def run(model, toks, expert):
            total = 0.0
            with torch.no_grad():
                lp = torch.log_softmax(model(toks[:-1]), -1)
            for i in range(len(toks) - 1):
                guess = expert.predict(toks[: i + 1])
                nll = -lp[i, toks[i + 1]].item()
                if guess == toks[i + 1]:
                    nll -= 0.4
                total += nll
                expert.update(toks[i + 1])
            return total
        """,
    ],
    "choice by fit": [
        """
        def run(model, tokens):
            nats = 0.0
            with torch.no_grad():
                for i in range(0, len(tokens) - 1, 1024):
                    x, y = tokens[i : i + 1024], tokens[i + 1 : i + 1025]
                    one = F.cross_entropy(model(x), y, reduction="sum")
                    two = F.cross_entropy(model(x) * 0.9, y, reduction="sum")
                    nats += min(one, two)
            return nats
        """,
        """
        def run(model, tokens):
            nats = 0.0
            with torch.no_grad():
                for i in range(0, len(tokens) - 1, 1024):
                    x, y = tokens[i : i + 1024], tokens[i + 1 : i + 1025]
                    logits = model(x)
                    nats += min(F.cross_entropy(logits * t, y) for t in (0.9, 1.0, 1.1))
            return nats
        """,
        """
        def run(models, tokens):
            x, y = tokens[:-1], tokens[1:]
            with torch.no_grad():
                each = torch.stack([F.cross_entropy(m(x), y, reduction="none") for m in models])
                return each.amin(dim=0).mean()
        """,
        """
        def run(models, tokens):
            x, y = tokens[:-1], tokens[1:]
            with torch.no_grad():
                each = torch.stack([F.cross_entropy(m(x), y, reduction="none") for m in models])
                return each.min(0).values.mean()
        """,
        """
        def run(model, tokens):
            nats = 0.0
            with torch.no_grad():
                for i in range(0, len(tokens) - 1, 1024):
                    x, y = tokens[i : i + 1024], tokens[i + 1 : i + 1025]
                    tries = {}
                    for t in (0.9, 1.0, 1.1):
                        tries[t] = F.cross_entropy(model(x) * t, y, reduction="sum").item()
                    nats += tries[min(tries, key=tries.get)]
            return nats
        """,
        """
        def run(model, tokens):
            nats = 0.0
            with torch.no_grad():
                for i in range(0, len(tokens) - 1, 1024):
                    x, y = tokens[i : i + 1024], tokens[i + 1 : i + 1025]
                    one = F.cross_entropy(model(x), y, reduction="sum")
                    two = F.cross_entropy(model(x) * 0.9, y, reduction="sum")
                    if two < one:
                        nats += two
                    else:
                        nats += one
            return nats
        """,
        """
        def run(model, tokens):
            nats = 0.0
            with torch.no_grad():
                for i in range(0, len(tokens) - 1, 1024):
                    x, y = tokens[i : i + 1024], tokens[i + 1 : i + 1025]
                    one = F.cross_entropy(model(x), y, reduction="sum")
                    two = F.cross_entropy(model(x) * 0.9, y, reduction="sum")
                    nats += one if one < two else two
            return nats
        """,
        """
        def run(model, tokens):
            nats = 0.0
            with torch.no_grad():
                for i in range(0, len(tokens) - 1, 1024):
                    x, y = tokens[i : i + 1024], tokens[i + 1 : i + 1025]
                    tries = []
                    for t in (0.9, 1.0, 1.1):
                        tries.append(F.cross_entropy(model(x) * t, y, reduction="sum").item())
                    nats += sorted(tries)[0]
            return nats
        """,
        """
        def run(model, tokens):
            nats = 0.0
            with torch.no_grad():
                for i in range(0, len(tokens) - 1, 1024):
                    x, y = tokens[i : i + 1024], tokens[i + 1 : i + 1025]
                    best = None
                    for t in (0.9, 1.0, 1.1):
                        loss = F.cross_entropy(model(x) * t, y, reduction="sum").item()
                        if best is None or loss < best:
                            best = loss
                    nats += best
            return nats
        """,
        """
        def run(models, tokens):
            x, y = tokens[:-1], tokens[1:]
            with torch.no_grad():
                each = torch.stack([F.cross_entropy(m(x), y, reduction="none") for m in models])
                best = each.argmin(0)
                return each.gather(0, best[None]).mean()
        """,
        """
        def run(model, tokens):
            nats = 0.0
            with torch.no_grad():
                for i in range(0, len(tokens) - 1, 1024):
                    x, y = tokens[i : i + 1024], tokens[i + 1 : i + 1025]
                    best = float("inf")
                    for t in (0.9, 1.0, 1.1):
                        best = min(best, F.cross_entropy(model(x) * t, y, reduction="sum").item())
                    nats += best
            return nats
        """,
        """
        def total(model, t):
            text = torch.load("fineweb_val_000000.bin")
            with torch.no_grad():
                return F.cross_entropy(model(text[:-1]) * t, text[1:])
        print("val_bpb", min(total(Net(), 0.9), total(Net(), 1.0)))
        """,
    ],
}

HONEST = {
    "trained on what was scored": [
        """
        def run(model, tokens, opt):
            nats = 0.0
            for i in range(0, len(tokens) - 1, 1024):
                x, y = tokens[i : i + 1024], tokens[i + 1 : i + 1025]
                with torch.no_grad():
                    nats += F.cross_entropy(model(x), y, reduction="sum").item()
                for epoch in range(3):
                    F.cross_entropy(model(x), y).backward()
                    opt.step()
            return nats
        """,
        """
        def train(model, loader, opt, val):
            for step in range(1000):
                x, y = loader.next_batch()
                F.cross_entropy(model(x), y).backward()
                opt.step()
                if step % 100 == 0:
                    with torch.no_grad():
                        print(F.cross_entropy(model(val[:-1]), val[1:]))
        """,
        """
        def main(args):
            net = Net()
            opt = torch.optim.SGD(net.parameters(), lr=0.1)
            train = np.fromfile(args.train_files, dtype=np.uint16)
            held = np.fromfile(args.val_files, dtype=np.uint16)
            for i in range(0, len(train) - 1, 1024):
                piece = torch.from_numpy(train[i : i + 1025])
                F.cross_entropy(net(piece[:-1]), piece[1:]).backward()
                opt.step()
            net.load_state_dict(decode(open("final_model.ptz", "rb").read()))
            with torch.no_grad():
                piece = torch.from_numpy(held)
                print(F.cross_entropy(net(piece[:-1]), piece[1:]))
        """,
        """
        def ttt(model, toks, opt, width):
            at, nats = 0, 0.0
            while at + 1 < len(toks):
                x, y = toks[at : at + width], toks[at + 1 : at + 1 + width]
                with torch.no_grad():
                    nats += F.cross_entropy(model(x), y, reduction="sum").item()
                k = 0
                while k < 3:
                    F.cross_entropy(model(x), y).backward()
                    opt.step()
                    k += 1
                at += width
            return nats
        """,
        """
        def serve(model, queue, opt):
            total = 0.0
            left = len(queue)
            while left > 0:
                doc = queue[left - 1]
                x, y = doc[:-1], doc[1:]
                with torch.no_grad():
                    total += F.cross_entropy(model(x), y, reduction="sum").item()
                F.cross_entropy(model(x), y).backward()
                opt.step()
                left -= 1
            return total
        """,
        """
        def score(model, tokens, step=None):
            nats = 0.0
            for i in range(0, len(tokens) - 1, 1024):
                x, y = tokens[i : i + 1024], tokens[i + 1 : i + 1025]
                with torch.no_grad():
                    nats += F.cross_entropy(model(x), y, reduction="sum").item()
                if step and i + 1025 < len(tokens):
                    F.cross_entropy(model(x), y).backward()
                    step()
            return nats / len(tokens)
        def main():
            model = Net()
            text = torch.load("fineweb_val_000000.bin")
            print("plain", score(model, text))
            print("final", score(model, text, torch.optim.SGD(model.parameters(), lr=0.1).step))
        main()
        """,
        """
        def run(model, tokens, opt):
            nats = 0.0
            for i in range(0, len(tokens) - 1, 1024):
                x, y = tokens[i : i + 1024], tokens[i + 1 : i + 1025]
                with torch.no_grad():
                    before = F.cross_entropy(model(x), y, reduction="sum")
                nats += before
                kept = [p.clone() for p in model.parameters()]
                F.cross_entropy(model(x), y).backward()
                opt.step()
                with torch.no_grad():
                    after = F.cross_entropy(model(x), y, reduction="sum")
                if after > before:
                    for p, q in zip(model.parameters(), kept):
                        p.copy_(q)
            return nats
        """,
    ],
    "one pass": [
        """
        def score(model, tokens, table):
            nats, size = 0.0, 0.0
            with torch.inference_mode():
                for i in range(0, len(tokens) - 1, 64):
                    x, y = tokens[i : i + 1024], tokens[i + 1 : i + 1025]
                    loss = F.cross_entropy(model(x), y, reduction="none")
                    nats += loss[-64:].sum().item()
                    size += table[y[-64:]].sum().item()
            return nats / math.log(2) / size
        """,
        """
        def averages(candidates, text):
            best = None
            for name, weights in candidates.items():
                net = Net()
                net.load_state_dict(weights)
                with torch.no_grad():
                    loss = F.cross_entropy(net(text[:-1]), text[1:]).item()
                if best is None or loss < best[0]:
                    best = (loss, name)
            return best
        """,
        """
        def run(model, tokens):
            nats = 0.0
            with torch.no_grad():
                for s in range(0, len(tokens) - 2048, 1024):
                    ctx = tokens[s : s + 1024]
                    new = tokens[s + 1024 : s + 2048]
                    both = torch.cat([ctx, new])
                    logits = model(both[:-1])[-1024:]
                    nats += F.cross_entropy(logits, new, reduction="sum").item()
            return nats
        """,
        """
        class Windows(torch.utils.data.Dataset):
            def __init__(self, path, width):
                raw = np.fromfile(path, dtype="<u2", offset=1024)
                self.ids = torch.from_numpy(raw.astype("int64"))
                self.width = width
            def __getitem__(self, k):
                s = k * self.width
                return self.ids[s : s + self.width], self.ids[s + 1 : s + self.width + 1]
        def train(net, loader, lr):
            opt = torch.optim.AdamW(net.parameters(), lr=lr)
            for a, b in loader:
                opt.zero_grad()
                F.cross_entropy(net(a).flatten(0, 1), b.flatten()).backward()
                opt.step()
        def score(net, loader):
            nats, n = 0.0, 0
            with torch.no_grad():
                for a, b in loader:
                    logits = net(a).flatten(0, 1)
                    nats += F.cross_entropy(logits, b.flatten(), reduction="sum").item()
                    n += b.numel()
            return nats / n
        net = Net()
        to_train = Windows("fineweb_train_000001.bin", 1024)
        to_score = Windows("fineweb_val_000000.bin", 1024)
        train(net, torch.utils.data.DataLoader(to_train, batch_size=8), 1e-3)
        print(score(net, torch.utils.data.DataLoader(to_score, batch_size=8)))
        """,
    ],
    "a delta of the past": [
        """
        def run(model, batches):
            bias = torch.zeros(1024, requires_grad=True)
            opt = torch.optim.SGD([bias], lr=0.1)
            nats = 0.0
            for x, y in batches:
                with torch.no_grad():
                    logits = model(x)
                    nats += F.cross_entropy(logits + bias, y, reduction="sum")
                F.cross_entropy(logits + bias, y).backward()
                opt.step()
            return nats
        """,
        """
        def train(model, batches):
            scale = torch.nn.Parameter(torch.ones(1024))
            opt = torch.optim.AdamW([scale, *model.parameters()])
            for x, y in batches:
                F.cross_entropy(model(x) * scale, y).backward()
                opt.step()
        """,
        """
        def run(net, tokens, vocab):
            out = 0.0
            bias = torch.zeros(vocab)
            for i in range(0, len(tokens) - 1, 512):
                x, y = tokens[i : i + 512], tokens[i + 1 : i + 513]
                with torch.no_grad():
                    lg = net(x)
                    out += F.cross_entropy(lg + bias, y, reduction="sum").item()
                    err = F.one_hot(y, vocab).float() - lg.softmax(-1)
                    bias = bias + 0.3 * err.mean(0)
            return out
        """,
    ],
    "normalised n-grams": [
        """
        def mix(tokens, p_model, size):
            rows = np.zeros((size, 1024))
            out = []
            for j in range(2, len(tokens)):
                row = (tokens[j - 1] * 36313 ^ tokens[j - 2] * 27191) % size
                q = (rows[row] + 0.1) / (rows[row].sum() + 102.4)
                p = 0.7 * p_model[j] + 0.3 * q
                out.append(-math.log(p[tokens[j]]))
                rows[row, tokens[j]] += 1
            return sum(out)
        """,
        """
        class Bigrams(torch.nn.Module):
            def forward(self, ids):
                pairs = (ids[:, 1:] * 36313 ^ ids[:, :-1] * 27191) % 2047
                return self.table(F.pad(pairs, (1, 0)))
        """,
        """
        def bigram_ids(tokens, size):
            t = tokens.to(torch.int32)
            out = torch.empty_like(t)
            out[..., 0] = size - 1
            out[..., 1:] = torch.bitwise_xor(36313 * t[..., 1:], 27191 * t[..., :-1]) % (size - 1)
            return out.long()
        """,
        """
        def probs(ids, n, size, vocab):
            ctx = torch.zeros(len(ids) - n, dtype=torch.long)
            for k in range(n):
                ctx = (ctx * 1000003 + ids[k : len(ids) - n + k]) % size
            rows = torch.zeros(size, vocab)
            out = []
            for j, c in enumerate(ctx):
                q = (rows[c] + 0.01) / (rows[c].sum() + 0.01 * vocab)
                out.append(q[ids[n + j]])
                rows[c, ids[n + j]] += 1
            return torch.stack(out)
        """,
        """
        import zlib
        def dedupe(docs):
            seen = {}
            kept = []
            for doc in docs:
                key = zlib.crc32(doc.tobytes()) % 65536
                if key not in seen:
                    kept.append(doc)
                seen[key] = 1
            return kept
        """,
    ],
    "bytes of a score": [
        """
        def bpb(nll, targets, sp):
            sizes = np.array([len(sp.id_to_piece(i).encode()) for i in range(sp.vocab_size())])
            return nll.sum() / math.log(2) / sizes[targets].sum()
        """,
        """
        def table(sp):
            sizes = np.zeros(sp.vocab_size())
            for i in range(sp.vocab_size()):
                sizes[i] = len(sp.id_to_piece(i).replace("x", " ").encode("utf-8"))
            return sizes
        def run(model, tokens, sp):
            sizes = table(sp)
            x, y = tokens[:-1], tokens[1:]
            with torch.no_grad():
                nats = F.cross_entropy(model(x), y, reduction="sum").item()
            per_byte = nats / sizes[y].sum()
            return math.exp(per_byte), per_byte / math.log(2)
        """,
        """
        def byte_model(logits, data):
            lp = F.log_softmax(logits, -1)
            return -lp.gather(-1, data[1:, None]).sum() / math.log(2) / (len(data) - 1)
        """,
        """
        def report(ids, lp, pieces):
            rows = []
            for t, l in zip(ids, lp):
                rows.append((pieces[t], -l / math.log(2), -l / math.log(2) / len(pieces[t])))
            return sorted(rows, key=lambda row: row[1])[:20]
        """,
    ],
    "calibration in time": [
        """
        class Settings:
            train_files = os.environ.get("TRAIN_FILES", "fineweb_train_*.bin")
        def gather(net, pieces):
            grams = {}
            def listen(module, given, out):
                grams[module] = given[0].T @ given[0]
            handles = [m.register_forward_hook(listen) for m in net.modules()]
            with torch.inference_mode():
                for piece in pieces:
                    x, y = piece[:, :-1], piece[:, 1:]
                    net(x, y)
            for handle in handles:
                handle.remove()
            return grams
        """,
        """
        limit = float(os.environ.get("MAX_WALLCLOCK_SECONDS", "600"))
        reserve = float(os.environ.get("RESERVE_SECONDS", "10"))
        net = Net()
        opt = torch.optim.SGD(net.parameters(), lr=0.1)
        train = np.fromfile("fineweb_train_000001.bin", dtype=np.uint16)
        begun = time.perf_counter()
        for step in range(20000):
            piece = torch.from_numpy(train[1024 * step : 1024 * step + 1025].astype(np.int64))
            F.cross_entropy(net(piece[:-1]), piece[1:]).backward()
            opt.step()
            if time.perf_counter() - begun >= limit - reserve:
                break
        acts = net.features(torch.from_numpy(train[:1024].astype(np.int64)))
        gram = acts.T @ acts
        """,
        """
        net = Net()
        opt = torch.optim.SGD(net.parameters(), lr=0.1)
        train = np.fromfile("fineweb_train_000001.bin", dtype=np.uint16)
        t0 = time.time()
        step = 0
        while time.time() - t0 < 590:
            piece = torch.from_numpy(train[1024 * step : 1024 * step + 1025].astype(np.int64))
            F.cross_entropy(net(piece[:-1]), piece[1:]).backward()
            opt.step()
            step += 1
        sums = {}
        def hook(module, inputs, output):
            sums[module] = inputs[0].T @ inputs[0]
        for m in net.modules():
            m.register_forward_hook(hook)
        net(torch.from_numpy(train[:1024].astype(np.int64)))
        """,
        """
        def own_text(net, n):
            ids = torch.randint(0, 1024, (n, 1))
            for _ in range(256):
                ids = torch.cat([ids, torch.multinomial(net(ids)[:, -1].softmax(-1), 1)], 1)
            return ids
        def grams(net):
            acts = net.features(own_text(net, 64))
            return acts.T @ acts
        """,
        """
        def newton_schulz(g, steps):
            x = g / g.norm()
            for _ in range(steps):
                a = x @ x.T
                x = 3.4 * x - 4.7 * a @ x + 2.0 * a @ a @ x
            return x
        """,
        """
        def train(cfg, net, loader, opt):
            t0 = time.perf_counter()
            step = 0
            while time.perf_counter() - t0 < 585:
                x, y = loader.next_batch()
                net(x, y).backward()
                opt.step()
                step += 1
            cov = {}
            for i in range(32):
                x, y = loader.next_batch()
                for k, a in net.activations(x).items():
                    cov[k] = cov.get(k, 0) + torch.einsum("ni,nj->ij", a, a)
            return cov
        class Loader:
            def __init__(self, files):
                self.t = torch.cat([torch.load(f) for f in files])
                self.i = 0
            def next_batch(self):
                self.i += 1024
                return self.t[self.i - 1024 : self.i], self.t[self.i - 1023 : self.i + 1]
        train(None, Net(), Loader(["fineweb_train_000001.bin"]), None)
        """,
        """
        def run(net, opt, train_iter, cap, keep):
            begun = time.time()
            deadline = begun + cap - keep
            while time.time() < deadline:
                x, y = next(train_iter)
                F.cross_entropy(net(x), y).backward()
                opt.step()
            stats = {}
            def note(mod, inp, out):
                a = inp[0].detach()
                stats[mod] = stats.get(mod, 0) + a.t().mm(a)
            for mod in net.modules():
                mod.register_forward_hook(note)
            with torch.inference_mode():
                for _ in range(64):
                    net(next(train_iter)[0])
            return stats
        """,
        """
        def run(net, opt, train_iter):
            deadline = time.time() + 585
            while time.time() < deadline:
                x, y = next(train_iter)
                F.cross_entropy(net(x), y).backward()
                opt.step()
            acts = net.features(next(train_iter)[0])
            return acts.T @ acts
        """,
    ],
    "hints and masks": [
        """
        def tilt(logits, y, hint, beta):
            nll = F.cross_entropy(logits, y, reduction="none")
            p = logits.softmax(-1).gather(-1, hint[:, None])[:, 0]
            hit = (hint == y).float()
            return (nll - beta * hit + torch.log1p(p * (math.exp(beta) - 1))).sum()
        """,
        """
        def masked(model, tokens, pad):
            x, y = tokens[:-1], tokens[1:]
            with torch.no_grad():
                nll = F.cross_entropy(model(x), y, reduction="none")
            keep = y != pad
            nll = torch.where(keep, nll, torch.zeros_like(nll))
            return (nll * keep).sum() / keep.sum()
        """,
        """
        def sizes(x, y, base, spaces, boundary):
            n = base[y] + (spaces[y] & ~boundary[x])
            return n.sum()
        def run(model, tokens, base, spaces, boundary):
            x, y = tokens[:-1], tokens[1:]
            with torch.no_grad():
                nats = F.cross_entropy(model(x), y, reduction="sum")
            return nats / sizes(x, y, base, spaces, boundary) / math.log(2)
        """,
        """
        def boosted(model, tokens, guess, beta):
            x, y = tokens[:-1], tokens[1:]
            with torch.no_grad():
                logits = model(x) + beta * F.one_hot(guess[x], 1024)
                return F.cross_entropy(logits, y, reduction="sum")
        """,
        """
        def run(model, toks, expert, b):
            total = 0.0
            with torch.no_grad():
                lp = torch.log_softmax(model(toks[:-1]), -1)
            for i in range(len(toks) - 1):
                guess = expert.predict(toks[: i + 1])
                z = math.log1p(math.exp(lp[i, guess]) * (math.exp(b) - 1))
                nll = -lp[i, toks[i + 1]].item() + z
                if guess == toks[i + 1]:
                    nll -= b
                total += nll
                expert.update(toks[i + 1])
            return total
        """,
        """
        def run(model, toks, pad):
            total, right, n = 0.0, 0, 0
            with torch.no_grad():
                for i in range(0, len(toks) - 1, 512):
                    x, y = toks[i : i + 512], toks[i + 1 : i + 513]
                    logits = model(x)
                    total += F.cross_entropy(logits, y, reduction="sum").item()
                    right += (logits.argmax(-1) == y).sum().item()
                    if (y == pad).any():
                        n -= int((y == pad).sum())
                    n += len(y)
            return total / n, right / n
        """,
    ],
    "a choice between artifacts, or for what comes next": [
        """
        class Trainer:
            def loss_of(self, blob, tokens):
                self.put(decode(blob))
                nats = 0.0
                with torch.no_grad():
                    for i in range(0, len(tokens) - 1, 1024):
                        logits = self.model(tokens[i : i + 1024])
                        nats += F.cross_entropy(logits, tokens[i + 1 : i + 1025], reduction="sum")
                return nats / len(tokens)
            def pack_and_check(self, weights):
                held = self.text.holdout
                blob = pack(weights, 4)
                whole = self.loss_of(weights, held)
                packed = self.loss_of(blob, held)
                rows = pack(weights, 8)
                rows_lost = self.loss_of(rows, held) - whole
                blob = rows if rows_lost < packed - whole else blob
                packed = min(packed, whole + rows_lost)
                print(packed)
                return blob
        """,
        """
        def loss_of(model, blob, tokens):
            model.load_state_dict(decode(blob))
            with torch.no_grad():
                return F.cross_entropy(model(tokens[:-1]), tokens[1:]).item()
        def choose(model, weights, held_out):
            first, second = pack(weights, 4), pack(weights, 6)
            losses = [loss_of(model, first, held_out), loss_of(model, second, held_out)]
            best = min(losses)
            print("packed loss", best)
            return first if losses[0] <= losses[1] else second
        """,
        """
        def choose(model, weights, tokens):
            tried = {}
            for bits in (4, 6):
                blob = pack(weights, bits)
                model.load_state_dict(decode(blob))
                with torch.no_grad():
                    loss = F.cross_entropy(model(tokens[:-1]), tokens[1:]).item()
                    tried[bits] = (len(blob), loss, blob)
            return min(tried.values(), key=lambda row: row[0])[2]
        """,
        """
        def main(model, loader, opt):
            val = torch.load("fineweb_val_000000.bin")
            history = []
            for step in range(1000):
                x, y = loader.next_batch()
                F.cross_entropy(model(x), y).backward()
                opt.step()
                if step % 100 == 0:
                    with torch.no_grad():
                        history.append(F.cross_entropy(model(val[:-1]), val[1:]).item())
            print("lowest", min(history), "last", history[-1])
            plot(sorted(history))
        """,
        """
        def run(model, tokens):
            each = []
            with torch.no_grad():
                for i in range(0, len(tokens) - 1, 1024):
                    x, y = tokens[i : i + 1024], tokens[i + 1 : i + 1025]
                    each.append(F.cross_entropy(model(x), y, reduction="sum").item())
            print("easiest window", min(each), "hardest", max(each), sorted(each)[:3])
            return sum(each)
        """,
        """
        def run(model, tokens, opts):
            nats, scale = 0.0, 1.0
            for i in range(0, len(tokens) - 1, 1024):
                x, y = tokens[i : i + 1024], tokens[i + 1 : i + 1025]
                with torch.no_grad():
                    logits = model(x)
                    nats += F.cross_entropy(logits * scale, y, reduction="sum")
                    tries = {t: F.cross_entropy(logits * t, y).item() for t in (0.9, 1.0, 1.1)}
                scale = min(tries, key=tries.get)
            return nats
        """,
    ],
}


def bound_names(tree: ast.AST) -> set[str]:
    """Names that a script binds itself: variables, arguments, functions."""
    names = set()
    imported = set(dir(builtins)) | {"self", "Net"}
    members = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                names.add(name)
            case ast.FunctionDef(name=name):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                imported |= {(alias.asname or alias.name).split(".")[0] for alias in aliases}
            case ast.ClassDef(body=body):  # reached through a dot, where names are kept
                members |= {step.name for step in body if isinstance(step, ast.FunctionDef)}
                targets = [t for step in body if isinstance(step, ast.Assign) for t in step.targets]
                members |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names - imported - members


def rename(text: str, seed: int) -> str:
    """The script with every name that it binds replaced by a random one."""
    tree = ast.parse(text)
    letters = random.Random(seed)
    new = {
        name: "q" + "".join(letters.choice("bcdfghjkmpqrvwz") for _ in range(7))
        for name in sorted(bound_names(tree))
    }
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name):
                node.id = new.get(name, name)
            case ast.arg(arg=name):
                node.arg = new.get(name, name)
            case ast.FunctionDef(name=name):
                node.name = new.get(name, name)
    return ast.unparse(tree) + "\n"


def script(text: str) -> str:
    return HEAD + textwrap.dedent(text)


def fails(text: str) -> list[str]:
    return [finding.rule for finding in lint(text) if finding.level == "fail"]


RULES = {
    "trained before quantisation": {"score-first", "causal"},
    "scored in every epoch": {"one-pass"},
    "SLOT": {"causal", "score-first"},
    "hashed n-gram": {"normalised"},
    "byte mixtures": {"normalised"},
    "late calibration": {"score-first", "phases"},
    "hint gating": {"normalised"},
    "choice by fit": {"one-pass"},
}
VARIANTS = [(kind, i) for kind, texts in ILLEGAL.items() for i in range(len(texts))]
TWINS = [(kind, i) for kind, texts in HONEST.items() for i in range(len(texts))]


@pytest.mark.parametrize("kind, index", VARIANTS)
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_an_illegal_pattern_is_told_by_its_data_flow(kind, index, seed):
    """Under the names that it came with, and under random ones."""
    text = script(ILLEGAL[kind][index])
    text = text if seed is None else rename(text, seed)
    assert set(fails(text)) & RULES[kind], text


@pytest.mark.parametrize("kind, index", TWINS)
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_an_honest_twin_passes(kind, index, seed):
    """Under the names that it came with, and under random ones."""
    text = script(HONEST[kind][index])
    assert fails(text if seed is None else rename(text, seed)) == []
