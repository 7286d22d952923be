"""Is this score legal? Probes a run, an artifact, a log, a data folder, or any foreign evaluator.

    python3 golf.py tools.legality.audit RUN_OR_ARTIFACT [--data DIR] [--tokenizer FILE]
        [--device cuda]
    python3 golf.py tools.legality.audit train.log | DATA_FOLDER | path/to/scorer.py:NAME
    python3 golf.py tools.legality.cheaters    # every probe against its cheaters, one table

Exit status 0: no rule is broken, 1: one is, 2: nothing could be probed, 3: warnings alone. Our own
evaluator keeps the rules by construction; here that is shown on the artifact at hand, by changing
what must not matter. Models are opened by the code of this project; the code of a foreign evaluator
or of a published folder runs with your rights, and only after --trust.

A foreign evaluator comes in through a class whose instances run one whole evaluation and report:

    class Mine:                     # `python -m tools.legality.audit --trust mine.py:Mine`
        def __init__(self):                         # a fresh one for every evaluation
            self.model = load("final_model.ptz")

        def evaluate(self, tokens_T, log):          # int64 (T,); target i is tokens_T[i + 1]
            for first in range(0, len(tokens_T) - 1, 1024):
                end = min(first + 1024, len(tokens_T) - 1)
                logp_SV = self.model(tokens_T[first:end])     # float (S, V), natural logarithms
                nats_S = -logp_SV[range(end - first), tokens_T[first + 1 : end + 1]]
                log.score(first, end, nats_S, logp_SV)        # float (S,), as soon as it is final
                log.train(first, end)                                # before learning from them
                self.model.learn(tokens_T[first : end + 1])

    FILES = ["final_model.ptz"]                     # beside mine.py; all it may open

logp_SV may be left out; the probabilities are then added up by putting every id in the target's
place. Class attributes say more: vocab_size, tokens_T (text to probe with), isolated = True (claims
that no context crosses a document start), count_bytes(tokens_T) with decode(ids) (bytes of each
target; text), features() (name -> forward pass with and without). A function of one argument is a
scorer too: given the tokens so far it returns the log-probabilities of the next. For upstream-style
scripts: NAME = lambda: Windows(model.forward_logits, 1024, 64), or Windows(logits_of(model), ...)
where the model has nothing but model(x, y) -> loss.

What is judged is what is reported, and what moves when tokens change, at sampled targets. A leak
that takes a rare token to show can pass (--positions 1000 looks at more), and so can one bit, as
the better of two whole passes of which one is reported: read the code too (tools.legality.lint).
"""

import argparse
import contextlib
import copy
import hashlib
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import evaluate
from engine.open_model import Opened, open_model
from engine.ranks import Ranks
from engine.shards import find_shards, read_shard, write_shard
from tools.legality.alone import audit_alone
from tools.legality.probes import (
    DEAD_STEPS,
    POSITIONS,
    audit_on_both_texts,
    audit_parameters,
    audit_scorer,
    implied_bytes,
)
from tools.legality.rules import (
    REMEDIES,
    UNREADABLE,
    Finding,
    broken,
    format_findings,
    holds,
    printable,
    status,
)

# A foreign scorer's file imports what it wraps its model in from here, hence Stream and logits_of.
from tools.legality.scorers import Log, OnePass, Windows, load_scorer, made_up_tokens
from tools.legality.scorers import Stream as Stream
from tools.legality.scorers import logits_of as logits_of

ROOT = Path(__file__).resolve().parents[2]
FOREIGN_POSITIONS = 64
LONGEST_CONTEXT = 2048  # tokens that a probe gives a model, whatever context it was made for


# Folders and logs ---------------------------------------------------------------------------------


def audit_data(folder: Path, tokenizer: Path | None = None) -> list[Finding]:
    """Findings of data.verify on a prepared folder, under the rules they belong to.

    Where the shards are not those of the manifest, their bytes are another text's: one rule.
    """
    from data import verify

    levels = {"fault": "fail", "warning": "warn", "ok": "ok"}
    outcomes = verify.verify(folder, tokenizer)
    about_bytes = {"bytes", "sidecar", "tokenizer"}
    if any(outcome.level == "fault" and outcome.check not in about_bytes for outcome in outcomes):
        about_bytes = set()
    findings = []
    for outcome in outcomes:
        evidence = outcome.message
        remedy = ""
        if outcome.level != "ok" and "; " in evidence:
            evidence, _, remedy = evidence.rpartition("; ")
        rule = "bytes" if outcome.check in about_bytes else "validation"
        findings.append(
            Finding(rule, levels[outcome.level], f"{folder}: {outcome.check}", evidence, remedy)
        )
    return findings


def audit_log(path: Path) -> list[Finding]:
    """Findings on the bytes that a log's score was divided by, and on its training clock."""
    from tools.runs.logs import read_log

    run = read_log(path)
    findings = []
    place = str(path)
    if run.score is not None and run.score.val_loss and run.score.val_bpb:
        place = f"{path}:{run.score.line}"
        vocab_size = run.settings.get("vocab_size")
        targets = run.score.targets or run.val_tokens
        findings += audit_bytes(
            run.score.val_loss, run.score.val_bpb, targets, vocab_size, run.score.bytes, place
        )
        if run.score.is_partial:
            evidence = "the score is called val_bpb_partial: a part of the split, or an unknown one"
            findings.append(Finding("validation", "warn", place, evidence, REMEDIES["validation"]))
    if run.train_time_ms and run.cap_ms:
        took = run.train_time_ms / 1000
        cap = run.cap_ms / 1000
        evidence = f"training, averaging, packing and writing took {took:.1f} s of {cap:g} s"
        findings.append(
            broken("time", place, evidence) if took > cap else holds("phases", place, evidence)
        )
    return findings


def audit_bytes(
    loss: float,
    bpb: float,
    targets: int | None,
    vocab_size: int | None = None,
    stated_bytes: int | None = None,
    place: str = "score",
) -> list[Finding]:
    """Findings on a loss and its bpb: the bytes they imply, against those stated or published.

    Bytes that the log states are compared; otherwise the text is taken for FineWeb's validation
    split. Fewer tokens at the usual bytes a token is a part of that split; the usual tokens at
    other bytes is a miscount.
    """
    from data.verify import FINEWEB_CASEOPS_TOKENS, FINEWEB_TOKENS

    if not targets:
        return []
    implied = implied_bytes(loss, bpb, targets)
    digits = max(len(str(x).partition(".")[2]) for x in (loss, bpb))
    rounding = 0.5 * 10.0**-digits * (1 / loss + 1 / bpb)
    implied_text = f"{implied:,.0f} bytes implied by loss {loss}, bpb {bpb} and {targets:,} targets"
    if stated_bytes:
        if abs(implied / stated_bytes - 1) > 1e-6 + rounding:
            return [broken("bytes", place, f"{implied_text}; the log states {stated_bytes:,}")]
        return [holds("bytes", place, f"{implied_text}, as stated")]
    split_bytes = evaluate.FINEWEB_VAL["bytes"]
    counts = {*FINEWEB_TOKENS.values()}
    counts |= {FINEWEB_CASEOPS_TOKENS}
    tolerance = 1e-4 + rounding  # logs cut the stream to whole windows
    if abs(implied / split_bytes - 1) <= tolerance:
        return [holds("bytes", place, f"{implied_text}; the split has {split_bytes:,}")]
    is_whole = any(0 <= targets - count < 2048 for count in counts)
    usual = [FINEWEB_TOKENS[vocab_size]] if vocab_size in FINEWEB_TOKENS else counts
    near = any(
        abs(implied / targets / (split_bytes / count) - 1) < 0.003 + rounding for count in usual
    )
    rule = "validation" if near and not is_whole else "bytes"
    return [broken(rule, place, f"{implied_text}; FineWeb's validation split has {split_bytes:,}")]


# Our own artifact ---------------------------------------------------------------------------------


# What scores a run's artifact in its folder. A packed script is all of it, and brings its own
# evaluate and engine. Those hold what a run needs, which is not evaluate's command line; scripts
# from before that was taken out start it, with engine.open_model or, older still, alone.
DRIVER = """
import argparse, importlib, sys, train_gpt, evaluate
try:
    from engine.recipe import load_model
except ImportError:
    try:
        from engine.open_model import open_model
    except ImportError:
        sys.exit(evaluate.main(sys.argv[1:]))
    sys.exit(evaluate.main(sys.argv[1:], open_model))

import quantize, torch
parser = argparse.ArgumentParser()
parser.add_argument("artifact")
parser.add_argument("--data")
parser.add_argument("--tokenizer")
parser.add_argument("--stride", type=int)
parser.add_argument("--device")
parser.add_argument("--documents", action="store_true")
parser.add_argument("--stream", action="store_true")
args = parser.parse_args()
with open(args.artifact, "rb") as file:
    weights, saved = quantize.decode(file.read())
recipe = importlib.import_module(saved["recipe"]).RECIPE
model = load_model(recipe, weights, saved, torch.device(args.device), False)
table = recipe.byte_table(args.tokenizer, saved["vocab_size"])
tokens_T, table = evaluate.read_validation(args.data, table)
repeat_weights = tuple(saved.get("repeat_weights", ()))
scheme = evaluate.Scheme(
    saved["train_seq_len"], args.stride, args.documents, repeat_weights=repeat_weights
)
ranks = evaluate.Ranks(device=torch.device(args.device))
scored = evaluate.score_and_log(model, tokens_T, table, scheme, ranks)
evaluate.log_final(scored, tokens_T, table, print)
"""


def find_path(text: str, folder: Path) -> Path | None:
    """A path of a run's settings: from where logs/<run_id>/ lies, or as it stands."""
    here = Path.cwd()
    places = [folder.resolve().parents[1] / text, here / text]
    path = next((place for place in places if place.exists()), None)
    # Short where it can be: the evidence goes into a record, and no machine's folders with it.
    return path.relative_to(here) if path and path.is_relative_to(here) else path


def probe_tokens(tokens_T: np.ndarray, num_tokens: int, border: int | None) -> np.ndarray:
    """Tokens to probe with: around the border of two shards where there is one, else the first."""
    first = max(0, min(border - num_tokens // 2, len(tokens_T) - num_tokens)) if border else 0
    return np.array(tokens_T[first : first + num_tokens]).astype(np.int64)


def audit_artifact(
    artifact: Path,
    data: Path | None = None,
    tokenizer: Path | None = None,
    device: str = "cpu",
    alone: bool = True,
    trust: bool = False,
) -> list[Finding]:
    """Findings on any recipe's model or a Hugging Face folder: scoring, parameters, bytes, files.

    The model is built by the code of this project; the code of a Hugging Face folder runs only
    where it is trusted.

    Without validation text the probes run on made-up documents, and a warning says so.
    Raises: ValueError or OSError for an artifact that does not load.
    """
    try:
        opened = open_model(artifact, device, compile=False, trust=trust)
    except RuntimeError as error:
        raise ValueError(f"{artifact} does not load: {error}") from error
    model = opened.model
    folder = opened.path.resolve()
    folder = folder if folder.is_dir() else folder.parent
    settings = opened.run_settings
    seq_len = min(opened.seq_len, LONGEST_CONTEXT)
    vocab_size = opened.model_settings["vocab_size"]
    stride = min(settings.get("eval_stride", 64), seq_len)
    place = str(artifact)
    data = data or find_path(settings.get("data_path", "no data_path"), folder)
    tokenizer = tokenizer or find_path(settings.get("tokenizer_path", "no path"), folder)
    table = None
    findings = []
    num_tokens = 3 * seq_len + seq_len // 2
    if data is None or tokenizer is None:
        evidence = "no validation text or tokenizer found: probed on made-up documents, "
        evidence += "bytes are not"
        remedy = "name them with --data and --tokenizer"
        findings.append(Finding("validation", "warn", place, evidence, remedy))
        tokens_T = made_up_tokens(vocab_size, num_tokens)
    else:
        table = byte_table(opened, tokenizer)
        val_T, table = evaluate.read_validation(data, table)
        findings += audit_text(val_T, table, tokenizer, str(data))
        lengths = [len(read_shard(path)) for path in find_shards(data, "val")]
        tokens_T = probe_tokens(val_T, num_tokens, lengths[0] if len(lengths) > 1 else None)

    def learning(model):
        return opened.recipe.adapter(model, seq_len, Ranks(device=torch.device(device)))

    modes = {
        f"blocks of {seq_len}": dict(stride=seq_len),
        f"sliding by {stride or seq_len // 2}": dict(stride=stride or seq_len // 2),
        "isolated documents": dict(stride=stride or seq_len // 2, isolate=True),
    }
    adapter = opened.recipe and learning(copy.deepcopy(model))
    if adapter and not hasattr(adapter, "learn"):
        adaptive = dict(stride=stride or seq_len // 2, chunk_tokens=seq_len, adapt=learning)
        modes["test-time training"] = adaptive
    shape = dict(
        seq_len=seq_len,
        vocab_size=vocab_size,
        repeat_weights=opened.repeat_weights,
        device=device,
    )
    scorers = {mode: Windows(model, **shape, **special) for mode, special in modes.items()}
    if getattr(model, "takes_memory", False):
        scorers["one pass"] = OnePass(model, **shape)
        if hasattr(adapter, "learn"):
            scorers["one pass, test-time training"] = OnePass(model, **shape, adapter=learning)
    for mode, scorer in scorers.items():
        findings += audit_scorer(lambda s=scorer: s, tokens_T, f"{place} [{mode}]", POSITIONS // 4)
    short_BT = torch.from_numpy(tokens_T[: min(seq_len, 128) + 1])[None].to(device)
    findings += audit_parameters(model, loss_of, [short_BT] * DEAD_STEPS, short_BT[:, :-1], place)
    is_run = opened.path.is_file() and (folder / "train_gpt.py").is_file()
    if alone and table is not None and is_run:
        # Alone, the artifact has no settings.json beside it, which says how the run scores. Older
        # runs have no such setting, and their code no such option.
        options = ["--stride", str(stride), "--device", device]
        if "eval_documents" in settings:
            options.append("--documents" if settings["eval_documents"] else "--stream")
        findings += audit_files(opened.path, tokens_T, tokenizer, options)
    return findings


def byte_table(opened: Opened, tokenizer: Path) -> evaluate.ByteTable:
    """The byte table of an opened model's tokens."""
    vocab_size = opened.model_settings["vocab_size"]
    if opened.recipe is None:
        return evaluate.ByteTable.from_sentencepiece(tokenizer, vocab_size)
    return opened.recipe.byte_table(str(tokenizer), vocab_size)


def loss_of(model: torch.nn.Module, tokens_BT: torch.Tensor) -> torch.Tensor:
    """The loss of any model that maps tokens_BT to logits_BTV, summed over the targets."""
    if hasattr(model, "loss"):
        return model.loss(tokens_BT)
    logits_BTV = model(tokens_BT[:, :-1])
    return F.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction="sum")


def audit_text(val_T: np.ndarray, table: evaluate.ByteTable, tokenizer: Path, place: str):
    """Findings on bytes and validation: table against text, split against manifest or challenge."""
    findings = []
    if table.sidecar_T is None:
        try:
            table.check(tokenizer, val_T)
            evidence = f"{table.total(val_T):,} bytes in {len(val_T):,} tokens, as decoded"
            findings.append(holds("bytes", place, evidence))
        except ValueError as error:
            findings.append(broken("bytes", place, str(error)))
    if table.metric == "val_bpb":
        evidence = f"{len(val_T):,} tokens: documents and bytes of the whole split"
        return [*findings, holds("validation", place, evidence)]
    evidence = "documents or bytes are not those of manifest or challenge: "
    evidence += "a score is val_bpb_partial"
    return [*findings, Finding("validation", "warn", place, evidence, REMEDIES["validation"])]


def audit_files(
    artifact: Path, tokens_T: np.ndarray, tokenizer: Path, options: list[str]
) -> list[Finding]:
    """Findings on artifact-only and network: score a little text beside the artifact, and alone."""
    folder = artifact.resolve().parent
    sources = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.py"))]
    names = [*sources, "requirements.txt"]
    files = [artifact.name, *(name for name in names if (folder / name).is_file())]
    with tempfile.TemporaryDirectory() as text_folder:
        write_shard(Path(text_folder) / "probe_val_000000.bin", tokens_T)
        command = [sys.executable, "-c", DRIVER, artifact.name, "--data", text_folder]
        command += ["--tokenizer", str(tokenizer.resolve()), *options]
        allowed = [Path(text_folder), tokenizer]
        return audit_alone(command, folder, files, allowed, place=str(artifact))


# Command ------------------------------------------------------------------------------------------


ALONE = "import sys; sys.path.insert(0, {root!r}); from tools.legality import audit as a; "
ALONE += "sys.exit(a.main())"


def audit_foreign(path: Path, name: str, count: int = FOREIGN_POSITIONS) -> list[Finding]:
    """Findings on the scorer FILE.py:NAME, and on what it opens when it is run alone.

    Raises: ValueError where its own code fails.
    """
    subject = f"{path.name}:{name}"
    with contextlib.chdir(path.parent):
        try:
            make, module = load_scorer(subject)
            findings = audit_on_both_texts(make, subject, count)
        except Exception as error:  # of any kind: it is foreign code
            raise ValueError(f"{subject} fails: {type(error).__name__}: {error}") from error
    files = [path.name, *getattr(module, "FILES", [])]
    files = list(dict.fromkeys(files))
    command = [sys.executable, "-c", ALONE.format(root=str(ROOT)), "--total", subject]
    # What this command itself imports. Sources alone: training text may lie below the same root.
    tools = [*ROOT.glob("*.py"), *ROOT.glob("**/__pycache__")]
    for room in ("codec", "engine", "tools"):
        tools += ROOT.glob(f"{room}/**/*.py")
    return findings + audit_alone(command, path.parent, files, tools, place=subject)


def audit(subject: str, args: argparse.Namespace) -> list[Finding]:
    """Findings on whatever was named.

    Raises: ValueError where nothing of that name can be probed.
    """
    file, colon, name = subject.rpartition(":")
    if colon and file.endswith(".py") and Path(file).is_file():
        if not args.trust:
            sha256 = hashlib.sha256(Path(file).read_bytes()).hexdigest()
            raise ValueError(
                f"{file} (sha256 {sha256}) is code; read it, then pass --trust to run it"
            )
        return audit_foreign(Path(file).resolve(), name, args.positions)
    path = Path(subject) if Path(subject).exists() else Path("logs") / subject
    if not path.exists():
        raise ValueError(f"{subject} must be an artifact, a log, a folder, or FILE.py:NAME")
    if path.suffix == ".py":
        raise ValueError(f"{path} holds a scorer under some name; give {path}:NAME")
    if path.is_dir() and list(path.glob("*_val_*.bin")):
        return audit_data(path, args.tokenizer)
    if (path / "config.json").is_file():
        return audit_artifact(path, args.data, args.tokenizer, args.device, trust=args.trust)
    if path.is_dir():
        artifact = path / "artifact.pgz"
        log = path / "train.log"
        if not artifact.is_file() and not log.is_file():
            raise ValueError(f"{path} holds no artifact.pgz, train.log or *_val_*.bin; name a file")
        findings = audit_log(log) if log.is_file() else []
    elif path.suffix in (".log", ".txt"):
        return audit_log(path)
    else:
        artifact = path
        findings = []
    if artifact.is_file():
        findings += audit_artifact(
            artifact, args.data, args.tokenizer, args.device, trust=args.trust
        )
    return findings


def print_total(subject: str) -> None:
    """Print what a scorer gives its probing text: the score to compare between folders."""
    make, _ = load_scorer(subject)
    scorer = make()
    tokens_T = getattr(scorer, "tokens_T", None)
    if tokens_T is None:
        tokens_T = made_up_tokens(scorer.vocab_size, 400)
    log = Log(np.asarray(tokens_T).astype(np.int64))
    scorer.evaluate(log.tokens_T.copy(), log)
    print(f"total nats:{math.fsum(log.nats_T)} targets:{log.num_targets}")


def main(argv: list[str] | None = None) -> int:
    about = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog="tools.legality.audit", description=about)
    add = parser.add_argument
    add("subjects", nargs="*", metavar="SUBJECT", help="run, artifact, log, data folder, FILE:NAME")
    add("--data", type=Path, metavar="DIR", help="folder with *_val_*.bin, for an artifact")
    add("--tokenizer", type=Path, metavar="FILE", help="of these shards")
    add("--device", default="cpu", help="cpu, where results are exact, or cuda")
    positions_help = f"targets of a scorer to probe (default {FOREIGN_POSITIONS})"
    add("--positions", type=int, default=FOREIGN_POSITIONS, metavar="N", help=positions_help)
    add("--trust", action="store_true", help="run the code of FILE:NAME, or of a published folder")
    add("--json", action="store_true", help="print one JSON object")
    add("--verbose", action="store_true", help="also show what holds")
    add("--total", metavar="FILE:NAME", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    try:
        if args.total:
            print_total(args.total)
            return 0
        if not args.subjects:
            raise ValueError("name a run, an artifact, a log, a data folder, or FILE.py:NAME")
        findings = [finding for subject in args.subjects for finding in audit(subject, args)]
        if not findings:
            raise ValueError(f"{', '.join(args.subjects)}: nothing in it could be probed")
    except (ValueError, OSError, ImportError) as error:
        print("tools.legality.audit:", printable(str(error)), file=sys.stderr)
        return UNREADABLE
    print(format_findings(findings, args.json, args.verbose))
    return status(findings)


if __name__ == "__main__":
    sys.exit(main())
