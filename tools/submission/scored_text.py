"""Check which text was scored: the whole validation split, at the bytes that it has."""

import ast
import re
from collections.abc import Iterator

from evaluate import FINEWEB_VAL
from tools.legality.rules import Finding
from tools.runs import stats
from tools.runs.logs import Run
from tools.runs.run_log import Scored
from tools.submission.log_figures import decimals
from tools.submission.record_folder import Record
from tools.submission.tracks import Track

WINDOWED_BYTES = dict(stats.WINDOWS.values())
# Ratios of implied to true bytes, and the mistake that gives them. Source: the corrections under
# upstream #1289 (U+FFFD), #1734 (space), #897 (no U+2581) and #2071 (CaseOps).
BYTE_MISTAKES = {
    1.0413: "a byte piece counted as the three bytes of U+FFFD",
    1.167: "the leading space counted twice",
    1.20: "a vocabulary without U+2581, whose unknown piece counts three bytes",
    1.0895: "CaseOps text scored without its byte sidecar",
}
REPEATED_EFFECT = 0.0005  # bpb; less is no mistake in counting bytes
TAIL = 64  # targets that the field's windows move by, and so each of them scores
WINDOW_LENGTHS = (1024, 2048)
OVERLAP_SHARDS = 1499  # training shards of a CaseOps build that trains on validation (#2127)


def check_validation(record: Record) -> Iterator[Finding]:
    """The score is of the whole split, and its bytes are the bytes of that text."""
    for run in record.scored:
        yield from check_split(run, record.track)
    for name, tree in record.scripts.trees.items():
        for line, count in short_splits(tree):
            evidence = f"takes {count:,} validation documents by default, the split has"
            evidence += f" {FINEWEB_VAL['documents']:,}: the others would be trained on (#2127)"
            remedy = f"set the default to {FINEWEB_VAL['documents']:,}"
            yield Finding("validation", "fail", f"{name}:{line}", evidence, remedy)
    shards = {run.train_shards for run in record.runs}
    if OVERLAP_SHARDS in shards:
        evidence = (
            f"{OVERLAP_SHARDS} training shards are those of a build that trains on validation"
        )
        yield Finding(
            "validation", "warn", record.folder.name, evidence, "see #2127; check the split"
        )


def check_split(run: Run, track: Track) -> Iterator[Finding]:
    """One run's implied bytes against those of the split."""
    name = run.path.name
    implied = run.implied_bytes()
    score = run.score
    tokens = run.val_tokens or score.targets
    split_bytes = FINEWEB_VAL["bytes"]
    if not track.is_fineweb:
        evidence = f"{score.targets or tokens} targets, {score.bytes} bytes; {run.data_note or ''}"
        yield Finding("validation", "ok", name, evidence.strip("; "))
        return
    if score.is_partial:
        evidence = f"its score is called val_bpb_partial: {run.data_note or 'not the whole split'}"
        yield Finding("validation", "fail", name, evidence, "score the challenge's whole split")
        return
    if implied is None or tokens is None:
        evidence = "val_loss, val_bpb or the number of tokens is not in the log, so no bytes follow"
        yield Finding("validation", "warn", name, evidence, "log all three with 8 decimals")
        return
    # The bytes that follow are as exact as both figures are printed, and a target more or less is
    # a matter of where the windows end.
    relative_slack = 2 / tokens
    for figure in (score.val_loss, score.val_bpb):
        relative_slack += 10.0 ** -decimals(figure) / figure
    slack = relative_slack * split_bytes + 1
    facts = f"{tokens:,} tokens imply {implied:,.0f} bytes"
    if abs(implied - split_bytes) <= slack:
        yield Finding("validation", "ok", name, f"{facts}, the whole split")
    elif tokens in WINDOWED_BYTES and abs(implied - WINDOWED_BYTES[tokens]) <= slack:
        yield Finding("validation", "ok", name, f"{facts}, all whole windows of the split")
    elif tokens in WINDOWED_BYTES:
        yield from judge_bytes(name, score, tokens, implied, facts)
    elif 0 < split_bytes - implied < 0.01 * split_bytes:
        evidence = (
            f"{facts}, {split_bytes - implied:,.0f} short of the split: its tail is not scored"
        )
        yield Finding("validation", "fail", name, evidence, "score the last, short window too")
    else:
        evidence = (
            f"{facts} where the challenge's split has {split_bytes:,}: another validation set"
        )
        yield Finding("validation", "fail", name, evidence, "fetch and verify the published split")


def judge_bytes(
    name: str, score: Scored, tokens: int, implied: float, facts: str
) -> Iterator[Finding]:
    """A score whose bytes are not those of its tokens, by how many times as many they are."""
    true_bytes = WINDOWED_BYTES[tokens]
    ratio = implied / true_bytes
    effect = score.val_bpb * (ratio - 1)
    if abs(effect) < REPEATED_EFFECT:
        # A mistake in counting bytes changes them by percents. So small a change comes of targets
        # that are counted more than once: their bytes a token differ from the mean of the text.
        counts = repeated_tails(score, tokens, implied)
        tails = " or ".join(
            f"the last {TAIL} ({tail} bytes) are scored {more + 1} times, {more * TAIL:,} targets"
            " too many"
            for more, tail in counts
        )
        most = f"{abs(implied - true_bytes):,.0f} targets or more too many"
        evidence = f"{implied - true_bytes:+,.0f} bytes ({facts}): a part of the text is scored"
        evidence += f" more than once, {tails or most}; {abs(effect):.6f} bpb"
        remedy = "score every target once: the last window only where no earlier one scored"
        yield Finding("one-pass", "warn", name, evidence, remedy)
        return
    causes = [text for mistake, text in BYTE_MISTAKES.items() if abs(ratio - mistake) < 0.004]
    cause = f" (as of {causes[0]})" if causes else ""
    evidence = f"{facts}, {ratio:.4f} times as many as they have{cause}"
    remedy = f"count bytes as evaluate.ByteTable does; the score is {score.val_bpb * ratio:.4f}"
    yield Finding("bytes", "fail", name, evidence, remedy)


def repeated_tails(score: Scored, tokens: int, implied: float) -> list[tuple[int, int]]:
    """How often the last targets are scored beyond once, and their bytes, as far as those fit.

    Windows that begin too near to the end are cut short, and each scores the last 64 targets once
    more: 15 of 1,024 tokens, 31 of 2,048. So many too many, n times 64 of b bytes each, leave the
    figures of tokens / (tokens + 64 n) * (bytes + n b) bytes, and b is a whole number.
    """
    true_bytes = WINDOWED_BYTES[tokens]
    places = max(decimals(score.val_loss), decimals(score.val_bpb))  # a last 0 is not in a number
    rounding = 0.5 * 10.0**-places * (1 / score.val_loss + 1 / score.val_bpb)
    slack = 1.01 * rounding * true_bytes
    fits = []
    for length in WINDOW_LENGTHS:
        more = length // TAIL - 1
        tail = round((implied * (tokens + more * TAIL) / tokens - true_bytes) / more)
        expected = tokens / (tokens + more * TAIL) * (true_bytes + more * tail)
        is_text = TAIL <= tail <= 8 * TAIL
        # Where figures are printed more coarsely, every number of windows fits.
        if is_text and abs(expected - implied) <= slack < more / 4:
            fits.append((more, tail))
    return fits


def short_splits(tree: ast.Module) -> Iterator[tuple[int, int]]:
    """Lines where a source sets a number of validation documents that is not the whole split."""

    def is_count(name: str) -> bool:
        return bool(re.search(r"val\w*doc|doc\w*val", name.lower().replace("-", "_")))

    def is_short(node: ast.AST | None) -> bool:
        value = node.value if isinstance(node, ast.Constant) else None
        return type(value) is int and 0 < value < FINEWEB_VAL["documents"]

    for node in ast.walk(tree):
        pairs: list[tuple[str, ast.AST | None]] = []
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            pairs = [(ast.unparse(target), node.value) for target in targets]
        elif isinstance(node, ast.Call):
            # add_argument("--val-docs", default=10_000): the option names what is set.
            words = " ".join(arg.value for arg in node.args if is_text(arg))
            pairs = [(words, word.value) for word in node.keywords if word.arg == "default"]
            pairs += [(word.arg or "", word.value) for word in node.keywords]
        elif isinstance(node, ast.arguments):
            positional = [*node.posonlyargs, *node.args]
            # Defaults belong to the last of the positional parameters.
            first = len(positional) - len(node.defaults)
            for parameter, value in zip(positional[first:], node.defaults, strict=True):
                pairs.append((parameter.arg, value))
            for parameter, value in zip(node.kwonlyargs, node.kw_defaults, strict=True):
                pairs.append((parameter.arg, value))
        for name, value in pairs:
            if is_count(name) and is_short(value):
                yield value.lineno, value.value


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
