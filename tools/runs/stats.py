"""Is a gain noise? One-sided Welch t-test on per-seed bpb, against a row or other runs.

    python3 golf.py tools.runs.stats RUN... --against ROW... [--reading R] [--json]

RUN and ROW are logs, run folders, run ids or record folders; pull requests of leaderboard.json
(1493 or '#1493') or parts of a folder's name there; or plain scores (1.0810). Exit status 0: p is
under 0.01 for a gain over the reading chosen (any, byte, sp1024, sp8192; default any), 1: that is
not shown, 2: no data.

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
from tools.submission import leaderboard

NATS, ALPHA, POWER, MAX_SEEDS = 0.005, 0.01, 0.8, 200
# Targets and bytes of the challenge's validation split in whole windows, by tokenizer: what logs
# imply. Source: val_loss, val_bpb and token counts of the merged records' logs, to 10 bytes.
WINDOWS = {
    "sp1024": (62_021_632, 151_080_363),
    "sp4096": (45_508_608, 151_074_053),
    "sp8192": (40_540_160, 151_078_222),
    "sp8192 with CaseOps": (47_851_520, 151_074_499),
    "bytes, and a BOS for each document": (151_130_112, 151_080_112),
}
TEXT = {name: WINDOWS[name] for name in ("sp1024", "sp8192")}  # that the 0.005 nats were read over


def readings() -> dict[str, float]:
    """What a gain of 0.005 nats is in bpb, by what the nats are counted over; and no threshold."""
    per_byte = NATS / math.log(2)
    per_token = {name: per_byte * tokens / n for name, (tokens, n) in TEXT.items()}
    return {"any": 0.0, "byte": per_byte, **per_token}


# Student's t --------------------------------------------------------------------------------------


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), to about 1e-14.

    Source: its continued fraction, evaluated by Lentz's method.
    """
    if not 0 < x < 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly
        return 1 - incomplete_beta(b, a, 1 - x)
    log_front = a * math.log(x) + b * math.log1p(-x)
    log_front += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    tiny = 1e-300
    c, d = 1.0, 1 / max(1 - (a + b) * x / (a + 1), tiny)
    result = d
    for m in range(1, 10_000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + numerator * d or tiny)
            c = 1 + numerator / c or tiny
            result *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return math.exp(log_front) * result / a


def t_tail(t: float, df: float) -> float:
    """P(T > t) for Student's t with df degrees of freedom."""
    tail = incomplete_beta(df / 2, 0.5, df / (df + t * t)) / 2
    return tail if t >= 0 else 1 - tail


def t_quantile(p: float, df: float) -> float:
    """The t with P(T <= t) = p.

    Raises: ValueError for p outside 0..1.
    """
    if not 0 < p < 1:
        raise ValueError(f"{p=} must lie between 0 and 1")
    if p < 0.5:
        return -t_quantile(1 - p, df)
    low, high = 0.0, 1.0
    while t_tail(high, df) > 1 - p:
        low, high = high, 2 * high
    for _ in range(64):  # halves of the last doubling: below the spacing of floats
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, df) > 1 - p else (low, middle)
    return high


def noncentral_t_tail(t: float, df: float, shift: float) -> float:
    """P(T > t) for the noncentral t: a normal of mean `shift` over an independent chi / sqrt(df).

    By Simpson's rule over the density of chi / sqrt(df).
    """
    log_scale = math.log(2) + df / 2 * math.log(df / 2) - math.lgamma(df / 2)
    steps, top = 400, 1 + 12 / math.sqrt(2 * df)
    total = 0.0
    for i in range(steps + 1):
        s = top * i / steps
        density = math.exp(log_scale - df * s * s / 2) * s ** (df - 1)
        above = 0.5 * math.erfc((t * s - shift) / math.sqrt(2))
        total += (1 if i in (0, steps) else 4 if i % 2 else 2) * density * above
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
            seeds = f"{name}: {len(values)} seed{'s' * (len(values) != 1)}"
            raise ValueError(
                f"{seeds}; a spread needs two or more, so there is no p: run more seeds"
            )
        if not all(map(math.isfinite, values)):
            raise ValueError(f"{name}: {values} must be finite")
    parts = [(statistics.variance(values) / len(values), len(values)) for values in (ours, theirs)]
    square = sum(part for part, _ in parts)
    if square <= 0:
        raise ValueError(
            "no spread within either side, so there is no p: are these different seeds?"
        )
    df = square**2 / sum(part**2 / (n - 1) for part, n in parts)
    return math.sqrt(square), df


def welch(ours: list[float], theirs: list[float], threshold_bpb: float = 0.0) -> Welch:
    """Test whether ours is lower than theirs by more than threshold_bpb.

    Variances may differ (Welch), and only a gain counts (one-sided): this reproduces upstream's p.
    Raises: ValueError with fewer than two seeds on a side, or without any spread.
    """
    error, df = spread(ours, theirs)
    gain = statistics.fmean(theirs) - statistics.fmean(ours)
    t, reach = (gain - threshold_bpb) / error, t_quantile(0.975, df) * error
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
    ours_2, theirs_2 = statistics.variance(ours), statistics.variance(theirs)

    normal = statistics.NormalDist()
    least_shift = normal.inv_cdf(1 - alpha) + normal.inv_cdf(power)  # were the spreads known

    def enough(n: int) -> bool:
        parts = [(ours_2 / n, n), (theirs_2 / (m := n if both else len(theirs)), m)]
        square = sum(part for part, _ in parts)
        df = square**2 / sum(part**2 / (count - 1) for part, count in parts)
        shift = gain / math.sqrt(square)
        if shift < least_shift:
            return False
        return noncentral_t_tail(t_quantile(1 - alpha, df), df, shift) >= power

    return next((n for n in range(2, MAX_SEEDS + 1) if enough(n)), None)


# Command ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """One side of the comparison: scores, each with the name of its seed, and what to mind."""

    names: list[str]
    bpb: list[float]
    notes: list[str]

    def describe(self) -> str:
        n, mean = len(self.bpb), statistics.fmean(self.bpb)
        std = f"  std {statistics.stdev(self.bpb):.8f}" if n > 1 else ""
        each = ", ".join(
            f"{name}: {bpb:.8f}" for name, bpb in zip(self.names, self.bpb, strict=True)
        )
        return f"n={n}  mean {mean:.8f}{std}  ({each})"


def read_side(words: list[str]) -> Side:
    """The scores that the words name.

    Raises: ValueError for what has no score or no seeds; FileNotFoundError for what is not there.
    """
    names, scores, notes = [], [], []
    for word in words:
        if not Path(word).exists() and not (Path("logs") / word).exists():
            if re.fullmatch(r"\d+\.\d+", word):
                names, scores = [*names, f"value {len(scores) + 1}"], [*scores, float(word)]
                continue
            row = leaderboard.find_row(leaderboard.load_leaderboard(), word)
            if not row.seeds:
                raise ValueError(f"{word}: no per-seed scores are published in leaderboard.json")
            names += [str(seed) for seed in row.seeds]
            scores += row.seeds.values()
            continue
        for run in read_runs(word):
            if run.score is None:
                raise ValueError(f"{run.path}: {run.score_reason}; finish the run, or leave it out")
            names, scores = [*names, str(run.seed)], [*scores, run.score.val_bpb]
            if text := leaderboard.other_text(run):
                notes.append(f"{run.path}: {text}")
    twice = sorted({name for name in names if names.count(name) > 1 and name != "None"})
    notes += [f"seed {name} stands {names.count(name)} times" for name in twice]
    return Side(names, scores, notes)


def compare(ours: Side, theirs: Side) -> dict:
    """Everything that is printed, as one object; `error` in place of tests that cannot be made."""
    result = {
        "ours": dataclasses.asdict(ours),
        "theirs": dataclasses.asdict(theirs),
        "gain_bpb": statistics.fmean(theirs.bpb) - statistics.fmean(ours.bpb),
        "notes": ours.notes + theirs.notes,
        "alpha": ALPHA,
        "power": POWER,
        "readings": {},
    }
    for name, threshold in readings().items():
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


def explain(result: dict, n_ours: int) -> str:
    """The comparison for a person."""
    labels = {"any": "any gain", "byte": "0.005 nats per byte"}
    labels |= {name: f"0.005 nats per {name} token" for name in TEXT}
    lines = [f"gain    {result['gain_bpb']:+.8f} bpb"]
    for name, row in result["readings"].items():
        if name == "any":
            low, high = row["ci95"]
            lines[0] += f"  95 % [{low:+.8f}, {high:+.8f}]  df {row['df']:.2f}"
            lines.append(
                f"{'over':28}{'bpb':>9}{'t':>9}{'p':>9}  seeds for p < {ALPHA}, power {POWER}"
            )
        needed, both = row["seeds_needed"], row["seeds_needed_both"]
        if row["gain_bpb"] <= row["threshold_bpb"]:
            seeds = "none will do: the gain is not over it"
        elif needed is None:
            seeds = f"over {MAX_SEEDS}" + (f", or {both} on both sides" if both else "")
        else:
            more = max(needed - n_ours, 0)
            seeds = f"{needed}, so {more} more" if more else f"{needed}: enough"
        p = row["p_one_sided"]
        p = f"{p:.3f}" if p >= 0.0005 else f"{p:.0e}"
        numbers = f"{row['threshold_bpb']:>9.5f}{row['t']:>9.3f}{p:>9}"
        lines.append(f"{labels[name]:28}{numbers}  {seeds}")
    lines += [result["error"]] if "error" in result else []
    lines += [f"note: {note}" for note in result["notes"]]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools.runs.stats", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--against", nargs="+", required=True, metavar="ROW")
    parser.add_argument("--reading", choices=list(readings()), default="any", help="of 0.005 nats")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    try:
        ours, theirs = read_side(args.runs), read_side(args.against)
    except (OSError, ValueError) as error:
        print(f"tools.runs.stats: {error}", file=sys.stderr)
        return 2
    result = compare(ours, theirs)
    if args.json:
        print(json.dumps(result))
    else:
        print(f"ours    {ours.describe()}\ntheirs  {theirs.describe()}")
        print(explain(result, len(ours.bpb)))
    chosen = result["readings"].get(args.reading)
    return int(chosen is None or chosen["p_one_sided"] >= ALPHA)


if __name__ == "__main__":
    sys.exit(main())
