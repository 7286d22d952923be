"""Is a gain noise? One-sided Welch t-test on per-seed bpb, against a row or other runs.

    python3 golf.py stats RUN... --against ROW... [--reading R] [--json]

RUN and ROW are logs, run folders, run ids or record folders; pull requests of leaderboard.json
(1493 or '#1493') or parts of a folder's name there; or plain scores (1.0810). Scores of different
texts do not compare and are refused, and so is a seed that stands twice on one side.

Exit status 0: p is under 0.01 for a gain over the reading chosen (any, byte, sp1024, sp8192;
default any), 1: that is not shown, 2: there is nothing to compare.

Upstream asks for 0.005 nats at p < 0.01 and does not say per what. A nat per byte is 1 / ln 2 bpb,
a nat per token is that over the bytes of a token: all readings are shown. What was applied from
pull request #1902 on is "any gain, p < 0.25". The seeds still needed come from the power of this
test, by the noncentral t: gain and both spreads as observed, the rival's seeds as they are.
"""

import argparse
import dataclasses
import json
import math
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.runs.logs import read_runs
from tools.runs.score_text import FINEWEB, ScoreText, difference, text_of
from tools.submission import leaderboard

NATS = 0.005  # that upstream asks for
ALPHA = 0.01
POWER = 0.8
MAX_SEEDS = 200
# Targets and bytes of the challenge's validation split in whole windows, by tokenizer: what logs
# imply. Source: val_loss, val_bpb and token counts of the merged records' logs, to 10 bytes.
WINDOWS = {
    "sp1024": (62_021_632, 151_080_363),
    "sp4096": (45_508_608, 151_074_053),
    "sp8192": (40_540_160, 151_078_222),
    "sp8192 with CaseOps": (47_851_520, 151_074_499),
    "bytes, and a BOS for each document": (151_130_112, 151_080_112),
}
# Those that the 0.005 nats were read over.
TEXT = {name: WINDOWS[name] for name in ("sp1024", "sp8192")}


def readings() -> dict[str, float]:
    """What a gain of 0.005 nats is in bpb, by what the nats are counted over; and no threshold."""
    per_byte = NATS / math.log(2)
    thresholds = {"any": 0.0, "byte": per_byte}
    for name, (tokens, text_bytes) in TEXT.items():
        thresholds[name] = per_byte * tokens / text_bytes
    return thresholds


# Student's t --------------------------------------------------------------------------------------


TINY = 1e-300  # in place of a zero that would be divided by


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), to about 1e-14.

    I_x(1, 1) is x: it is the share of a uniform distribution below x.
    Source: its continued fraction, evaluated by Lentz's method.
    """
    if not 0 < x < 1:
        return float(x >= 1)  # the logarithms below have no value there
    if x > (a + 1) / (a + b + 2):  # the fraction converges slowly there
        return 1 - incomplete_beta(b, a, 1 - x)
    # By logarithms: the gamma function overflows at 171.
    log_front = a * math.log(x) + b * math.log1p(-x)
    log_front += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    # c and d are the ratios of successive numerators and denominators of the fraction.
    c = 1.0
    d = 1 / max(1 - (a + b) * x / (a + 1), TINY)
    result = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        next_one = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for coefficient in (even, next_one):
            d = 1 / (1 + coefficient * d or TINY)
            c = 1 + coefficient / c or TINY
            result *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return math.exp(log_front) * result / a


def t_tail(t: float, df: float) -> float:
    """P(T > t) for Student's t with df degrees of freedom."""
    # Half of the two-sided tail, which the beta function gives.
    tail = incomplete_beta(df / 2, 0.5, df / (df + t * t)) / 2
    return tail if t >= 0 else 1 - tail


def t_quantile(p: float, df: float) -> float:
    """The t with P(T <= t) = p: t_quantile(0.975, 5) is 2.5706.

    Raises: ValueError for p outside 0..1.
    """
    if not 0 < p < 1:
        raise ValueError(f"{p=} must lie between 0 and 1")
    if p < 0.5:
        return -t_quantile(1 - p, df)
    low = 0.0
    high = 1.0
    # Doubling finds an interval, halving narrows it: slow, but right for every df, also below 1.
    while t_tail(high, df) > 1 - p:
        low = high
        high = 2 * high
    for _ in range(64):  # halves of the last doubling: below the spacing of floats
        middle = (low + high) / 2
        if t_tail(middle, df) > 1 - p:
            low = middle
        else:
            high = middle
    return high


def noncentral_t_tail(t: float, df: float, shift: float) -> float:
    """P(T > t) for the noncentral t: a normal of mean `shift` over an independent chi / sqrt(df).

    By Simpson's rule over the density of chi / sqrt(df).
    """
    log_scale = math.log(2) + df / 2 * math.log(df / 2) - math.lgamma(df / 2)
    steps = 400
    top = 1 + 12 / math.sqrt(2 * df)  # the density above is below 1e-30
    total = 0.0
    for i in range(steps + 1):
        s = top * i / steps
        density = math.exp(log_scale - df * s * s / 2) * s ** (df - 1)
        above = 0.5 * math.erfc((t * s - shift) / math.sqrt(2))
        if i in (0, steps):
            simpson = 1
        else:
            simpson = 4 if i % 2 else 2
        total += simpson * density * above
    return total * top / steps / 3


# Welch --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Welch:
    """The outcome of one test of "ours is lower than theirs by more than the threshold"."""

    t: float
    df: float
    p_one_sided: float
    gain_bpb: float  # mean of theirs minus mean of ours: positive where ours is better
    ci95: tuple[float, float]  # of the gain, two-sided


def spread(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """Standard error of the difference of the means, and Welch's degrees of freedom.

    Raises: ValueError where no spread can be estimated, with what is missing.
    """
    for name, values in (("ours", ours), ("theirs", theirs)):
        if len(values) < 2:
            seeds = "1 seed" if len(values) == 1 else f"{len(values)} seeds"
            raise ValueError(
                f"{name}: {seeds}; a spread needs two or more, so there is no p: run more seeds"
            )
        if not all(map(math.isfinite, values)):
            raise ValueError(f"{name}: {values} must be finite")
    variances = (statistics.variance(ours), statistics.variance(theirs))
    counts = (len(ours), len(theirs))
    square = sum(map(squared_error, variances, counts))
    # Equal numbers are copies of one run, or a score that was typed.
    if square <= 0:
        raise ValueError(
            "no spread within either side, so there is no p: are these different seeds?"
        )
    return math.sqrt(square), welch_df(variances, counts)


def squared_error(variance: float, count: int) -> float:
    """The square of the standard error of a mean of `count` values."""
    return variance / count


def welch_df(variances: tuple[float, float], counts: tuple[int, int]) -> float:
    """Welch's degrees of freedom: between the smaller count less 1, and both less 2.

    Of equal variances and counts n they are 2 (n - 1), as in Student's test.
    """
    errors = list(map(squared_error, variances, counts))
    weights = [error**2 / (n - 1) for error, n in zip(errors, counts, strict=True)]
    return sum(errors) ** 2 / sum(weights)


def welch(ours: list[float], theirs: list[float], threshold_bpb: float = 0.0) -> Welch:
    """Test whether ours is lower than theirs by more than threshold_bpb.

    Variances may differ (Welch), and only a gain counts (one-sided): this reproduces upstream's p.
    Raises: ValueError with fewer than two seeds on a side, or without any spread.
    """
    error, df = spread(ours, theirs)
    gain = statistics.fmean(theirs) - statistics.fmean(ours)
    t = (gain - threshold_bpb) / error
    reach = t_quantile(0.975, df) * error
    return Welch(t, df, t_tail(t, df), gain, (gain - reach, gain + reach))


def seeds_needed(
    ours: list[float],
    theirs: list[float],
    threshold_bpb: float = 0.0,
    alpha: float = ALPHA,
    power: float = POWER,
    both: bool = False,
) -> int | None:
    """The seeds of ours with which p < alpha is reached with the given power; None: over 200.

    If the true gain and both spreads are the observed ones, the test's t is noncentral. The rival
    keeps its seeds; with `both` it runs as many as we do.
    Raises: ValueError as spread().
    """
    spread(ours, theirs)
    gain = statistics.fmean(theirs) - statistics.fmean(ours) - threshold_bpb
    variances = (statistics.variance(ours), statistics.variance(theirs))
    normal = statistics.NormalDist()
    # With fewer seeds than a known spread would need, the slower exact answer is not worked out.
    least_shift = normal.inv_cdf(1 - alpha) + normal.inv_cdf(power)
    for n in range(2, MAX_SEEDS + 1):
        counts = (n, n if both else len(theirs))
        square = sum(map(squared_error, variances, counts))
        shift = gain / math.sqrt(square)
        if shift < least_shift:
            continue  # with a spread that has to be estimated, no number of seeds needs less
        df = welch_df(variances, counts)
        if noncentral_t_tail(t_quantile(1 - alpha, df), df, shift) >= power:
            return n
    return None


# Sides --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """One side of the comparison: scores, each with the name of its seed and its text."""

    names: list[str]
    bpb: list[float]
    texts: list[ScoreText]  # of the scores whose text is told

    def describe(self) -> str:
        scores = [f"{name}: {bpb:.8f}" for name, bpb in zip(self.names, self.bpb, strict=True)]
        std = f"  std {statistics.stdev(self.bpb):.8f}" if len(self.bpb) > 1 else ""
        mean = f"mean {statistics.fmean(self.bpb):.8f}"
        return f"n={len(self.bpb)}  {mean}{std}  ({', '.join(scores)})"


def read_side(words: list[str]) -> Side:
    """The scores that the words name.

    Raises: ValueError for what has no score or no seeds, and for a seed that stands twice;
    FileNotFoundError for what is not there.
    """
    side = Side([], [], [])
    for word in words:
        if Path(word).exists() or (Path("logs") / word).exists():
            add_runs(side, word)
        elif re.fullmatch(r"\d+\.\d+", word):
            side.names.append(f"value {len(side.bpb) + 1}")
            side.bpb.append(float(word))
        else:
            add_row(side, word)
    for name in side.names:
        if name != "None" and side.names.count(name) > 1:
            # Two runs of one seed differ by chance of the machine alone: they would make the
            # spread too small and the test too sure.
            raise ValueError(f"seed {name} stands {side.names.count(name)} times; leave one in")
    return side


def add_runs(side: Side, word: str) -> None:
    """Add the runs of a log or a folder."""
    for run in read_runs(word):
        if run.score is None:
            raise ValueError(f"{run.path}: {run.score_reason}; finish the run, or leave it out")
        side.names.append(str(run.seed))
        side.bpb.append(run.score.val_bpb)
        side.texts.append(text_of(run))


def add_row(side: Side, word: str) -> None:
    """Add the seeds of a row of the public leaderboard."""
    row = leaderboard.find_row(leaderboard.load_leaderboard(), word)
    if not row.seeds:
        raise ValueError(f"{word}: no per-seed scores are published in leaderboard.json")
    side.names.extend(str(seed) for seed in row.seeds)
    side.bpb.extend(row.seeds.values())
    side.texts.append(FINEWEB)


def refuse_other_texts(ours: Side, theirs: Side) -> None:
    """Raises: ValueError where two scores are of different texts, with both."""
    texts = ours.texts + theirs.texts
    for text in texts[1:]:
        apart = difference(texts[0], text)
        if apart:
            raise ValueError(
                f"no test: one score is on {texts[0].name}, another on {text.name} ({apart});"
                " score all on one text"
            )


# Command ------------------------------------------------------------------------------------------


def name_text(texts: list[ScoreText]) -> str:
    """The one text of all scores, for a person."""
    names = [text.name for text in texts if text.bytes is not None]
    return names[0] if names else "not told: take care that it is the same for all"


def compare(ours: Side, theirs: Side) -> dict:
    """Everything that is printed, as one object; `error` in place of tests that cannot be made."""
    result = {
        "ours": dataclasses.asdict(ours),
        "theirs": dataclasses.asdict(theirs),
        "gain_bpb": statistics.fmean(theirs.bpb) - statistics.fmean(ours.bpb),
        "text": name_text(ours.texts + theirs.texts),
        "alpha": ALPHA,
        "power": POWER,
        "readings": {},
    }
    for name, threshold in readings().items():
        # Without a spread there is no p, but the gain can be told.
        try:
            test = dataclasses.asdict(welch(ours.bpb, theirs.bpb, threshold))
        except ValueError as error:
            return result | {"error": str(error)}
        result["readings"][name] = {
            "threshold_bpb": threshold,
            **test,
            "seeds_needed": seeds_needed(ours.bpb, theirs.bpb, threshold),
            "seeds_needed_both": seeds_needed(ours.bpb, theirs.bpb, threshold, both=True),
        }
    return result


def advise(row: dict, n_ours: int) -> str:
    """How many seeds are still needed to show a gain over one threshold."""
    needed = row["seeds_needed"]
    on_both_sides = row["seeds_needed_both"]
    if row["gain_bpb"] <= row["threshold_bpb"]:
        return "none will do: the gain is not over it"
    if needed is None:
        other_way = f", or {on_both_sides} on both sides" if on_both_sides else ""
        return f"over {MAX_SEEDS}{other_way}"
    more = max(needed - n_ours, 0)
    return f"{needed}, so {more} more" if more else f"{needed}: enough"


def explain(result: dict, n_ours: int) -> str:
    """The comparison for a person."""
    labels = {"any": "any gain", "byte": "0.005 nats per byte"}
    labels |= {name: f"0.005 nats per {name} token" for name in TEXT}
    lines = [f"text    {result['text']}", f"gain    {result['gain_bpb']:+.8f} bpb"]
    for name, row in result["readings"].items():
        if name == "any":
            low, high = row["ci95"]
            lines[-1] += f"  95 % [{low:+.8f}, {high:+.8f}]  df {row['df']:.2f}"
            heading = f"{'over':28}{'bpb':>9}{'t':>9}{'p':>9}"
            lines.append(f"{heading}  seeds for p < {ALPHA}, power {POWER}")
        p = row["p_one_sided"]
        p_text = f"{p:.3f}" if p >= 0.0005 else f"{p:.0e}"
        numbers = f"{row['threshold_bpb']:>9.5f}{row['t']:>9.3f}{p_text:>9}"
        lines.append(f"{labels[name]:28}{numbers}  {advise(row, n_ours)}")
    if "error" in result:
        lines.append(result["error"])
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="golf.py stats", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--against", nargs="+", required=True, metavar="ROW")
    parser.add_argument("--reading", choices=list(readings()), default="any", help="of 0.005 nats")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    try:
        ours = read_side(args.runs)
        theirs = read_side(args.against)
        refuse_other_texts(ours, theirs)
    except (OSError, ValueError) as error:
        print(f"golf.py stats: {error}", file=sys.stderr)
        return 2
    result = compare(ours, theirs)
    if args.json:
        print(json.dumps(result))
    else:
        print(f"ours    {ours.describe()}\ntheirs  {theirs.describe()}")
        print(explain(result, len(ours.bpb)))
    reading = result["readings"].get(args.reading)
    is_shown = reading is not None and reading["p_one_sided"] < ALPHA
    return 0 if is_shown else 1


if __name__ == "__main__":
    sys.exit(main())
