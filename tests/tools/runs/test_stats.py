"""Significance: Student's t, Welch's test, upstream's published p, and the seeds still needed."""

import json
import math
import random
import statistics

import pytest

from tools.runs.stats import (
    incomplete_beta,
    main,
    noncentral_t_tail,
    readings,
    seeds_needed,
    t_quantile,
    t_tail,
    welch,
)
from tools.submission import leaderboard

LOG = "step:9/9 train_loss:2.0 train_time:500ms\nfinal_int6 val_loss:{loss} val_bpb:{bpb}\n"


def row(pr: int) -> list[float]:
    return list(leaderboard.find_row(leaderboard.load_leaderboard(), str(pr)).seeds.values())


def write_logs(folder, scores: dict[int, float], loss=2.0):
    folder.mkdir(exist_ok=True)
    for seed, bpb in scores.items():
        (folder / f"train_seed{seed}.log").write_text(LOG.format(loss=loss, bpb=bpb))
    return str(folder)


# Student's t


@pytest.mark.parametrize(
    "p, df, t",
    [
        # df 1 and 2 have closed forms; the others: published tables of 1e-9 and finer
        (0.975, 1, math.tan(math.pi * 0.475)),
        (0.99, 1, math.tan(math.pi * 0.49)),
        (0.975, 2, 0.95 * math.sqrt(2 / (1 - 0.95**2))),
        (0.99, 2, 0.98 * math.sqrt(2 / (1 - 0.98**2))),
        (0.95, 3, 2.3533634348018264),
        (0.975, 5, 2.5705818356363146),
        (0.99, 10, 2.7637694581126957),
        (0.995, 30, 2.7499956535672314),
        (0.975, 120, 1.9799304050824413),
        (0.025, 5, -2.5705818356363146),
        (0.5, 7, 0.0),
    ],
)
def test_quantiles_of_student_t(p, df, t):
    """Known quantiles to 1e-9, and the tail takes them back."""
    assert t_quantile(p, df) == pytest.approx(t, abs=1e-9)
    assert t_tail(t, df) == pytest.approx(1 - p, abs=1e-12)


@pytest.mark.parametrize("df", [1, 2, 2.61, 4.23, 17.5, 300])
@pytest.mark.parametrize("t", [-3.0, 0.0, 0.4, 1.909, 3.798, 25.0])
def test_the_tail_is_the_integral_of_the_density(t, df):
    """For every df, whole or not, the tail equals the density summed by another method."""
    scale = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
    steps = 400
    # with t = sqrt(df) tan(a) the area under the density is that of cos(a)**(df - 1)
    low, high = math.atan(t / math.sqrt(df)), math.pi / 2
    width = (high - low) / steps
    weights = [1, *(4, 2) * (steps // 2 - 1), 4, 1]
    heights = (max(math.cos(low + width * i), 0) ** (df - 1) for i in range(steps + 1))
    area = sum(w * h for w, h in zip(weights, heights, strict=True)) * width / 3
    assert t_tail(t, df) == pytest.approx(math.exp(scale) * math.sqrt(df) * area, abs=2e-7)
    assert t_tail(t, df) + t_tail(-t, df) == pytest.approx(1, abs=1e-14)


def test_the_incomplete_beta_at_known_points():
    """Ends, symmetry, and the closed forms for a = 1 and b = 1."""
    assert (incomplete_beta(2, 3, 0), incomplete_beta(2, 3, 1)) == (0, 1)
    for x in (0.01, 0.3, 0.77, 0.999):
        assert incomplete_beta(1, 3.5, x) == pytest.approx(1 - (1 - x) ** 3.5, abs=1e-14)
        assert incomplete_beta(2.5, 1, x) == pytest.approx(x**2.5, abs=1e-14)
        assert incomplete_beta(0.5, 0.5, x) == pytest.approx(2 / math.pi * math.asin(x**0.5))
    with pytest.raises(ValueError, match="p=1 must lie between 0 and 1"):
        t_quantile(1, 5)


def test_the_noncentral_t():
    """Without a shift it is Student's; with one it agrees with draws."""
    for t, df in ((0.5, 3.3), (2.7, 9), (-1.0, 1), (3.0, 60)):
        assert noncentral_t_tail(t, df, 0) == pytest.approx(t_tail(t, df), abs=2e-6)
    draw = random.Random(0)
    df, shift, t, n = 4, 2.5, 3.7469, 20_000

    def once() -> float:
        chi = sum(draw.gauss(0, 1) ** 2 for _ in range(df))
        return (draw.gauss(0, 1) + shift) / math.sqrt(chi / df)

    share = sum(once() > t for _ in range(n)) / n
    assert noncentral_t_tail(t, df, shift) == pytest.approx(share, abs=0.012)


# Welch


def test_upstreams_published_p_values():
    """#1514 against #1493 gives 0.020 and #1769 against #1736 gives 0.063, as upstream printed."""
    first, second = welch(row(1514), row(1493)), welch(row(1769), row(1736))
    assert f"{first.p_one_sided:.3f}" == "0.020" and f"{second.p_one_sided:.3f}" == "0.063"
    assert first.gain_bpb == pytest.approx(0.00117015, abs=1e-8)
    assert (first.t, first.df) == pytest.approx((3.798, 2.614), abs=1e-3)
    assert first.ci95 == pytest.approx((0.00010258, 0.00223771), abs=1e-8)
    assert second.ci95[0] < 0 < second.ci95[1]


def test_every_published_p_value_is_reproduced():
    """Of all rows that name one, to 0.001; three of them took the population's deviation."""
    rows = leaderboard.load_leaderboard()
    checked = []
    for mine in rows:
        if not mine.published_p or not mine.seeds:
            continue
        rival = leaderboard.find_row(rows, str(mine.published_p["against"]))
        test = welch(list(mine.seeds.values()), list(rival.seeds.values()))
        t = test.t
        if mine.published_p["spread"] == "population":
            assert len(mine.seeds) == len(rival.seeds) == 3
            t *= math.sqrt(3 / 2)  # their variances are 2/3 of the sample's
        assert t_tail(t, test.df) == pytest.approx(mine.published_p["p"], abs=0.001), mine.name
        checked.append(mine.pr)
    assert checked == [1514, 1769, 1945, 1953, 2014, 2135]


def test_three_readings_of_the_threshold():
    """Per byte 0.00721 bpb, per sp1024 token 0.00296, per sp8192 token 0.00194; and none."""
    rounded = {name: round(bpb, 5) for name, bpb in readings().items()}
    assert rounded == {"any": 0, "byte": 0.00721, "sp1024": 0.00296, "sp8192": 0.00194}
    assert readings()["byte"] == 0.005 / math.log(2)
    ours, theirs = [1.00, 1.01, 1.02], [1.05, 1.06, 1.04]
    over = [welch(ours, theirs, bpb).p_one_sided for bpb in readings().values()]
    assert over[0] < over[3] < over[2] < over[1]  # the higher the threshold, the weaker
    assert welch(ours, theirs, 0.04).p_one_sided == pytest.approx(0.5)


def test_direction_and_symmetry():
    """A gain has a small p, a loss its complement; the interval is that of the gain."""
    ours, theirs = [1.0, 1.01, 1.02, 1.0], [1.05, 1.06, 1.04]
    gain, loss = welch(ours, theirs), welch(theirs, ours)
    assert gain.p_one_sided < 0.01 < 0.99 < loss.p_one_sided
    assert gain.p_one_sided + loss.p_one_sided == pytest.approx(1)
    assert gain.gain_bpb == -loss.gain_bpb and gain.ci95[0] == -loss.ci95[1]
    a, b = statistics.variance(ours) / 4, statistics.variance(theirs) / 3
    assert gain.df == pytest.approx((a + b) ** 2 / (a**2 / 3 + b**2 / 2))
    assert gain.t == pytest.approx(gain.gain_bpb / math.sqrt(a + b))
    one_sided = welch([1.0, 1.0, 1.0], theirs)  # no spread on one side
    assert one_sided.df == pytest.approx(2) and one_sided.p_one_sided < 0.01


@pytest.mark.parametrize(
    "ours, theirs, message",
    [
        ([1.0], [1.1, 1.2], "ours: 1 seed; a spread needs two or more"),
        ([], [1.1, 1.2], "ours: 0 seeds"),
        ([1.0, 1.1], [1.1], "theirs: 1 seed;"),
        ([1.0, 1.0], [1.1, 1.1], "no spread within either side"),
        ([1.0, math.nan], [1.1, 1.2], "must be finite"),
    ],
)
def test_what_has_no_p_says_so(ours, theirs, message):
    """One seed, no seed, equal values, NaN: a sentence, not a crash and not a p."""
    for test in (welch, seeds_needed):
        with pytest.raises(ValueError, match=message):
            test(ours, theirs)


def test_seeds_needed_have_the_power():
    """With the number that is named 80 % of simulated repeats reach p < 0.01, with fewer not."""
    ours, theirs = [0.98, 1.00, 1.02], [1.02, 1.04, 1.03, 1.05, 1.04, 1.03, 1.05, 1.06]
    n = seeds_needed(ours, theirs)
    assert n == 6
    mean, std = statistics.fmean(ours), statistics.stdev(ours)
    rival, rival_std = statistics.fmean(theirs), statistics.stdev(theirs)
    draw = random.Random(1)

    def power(count: int) -> float:
        def once() -> bool:
            a = [draw.gauss(mean, std) for _ in range(count)]
            return welch(a, [draw.gauss(rival, rival_std) for _ in theirs]).p_one_sided < 0.01

        return sum(once() for _ in range(200)) / 200

    assert power(n) > 0.75 > power(n - 2)


def test_seeds_needed_at_the_edges():
    """None where the gain is not over the threshold, or the rival's few seeds bar the way."""
    ours, theirs = row(2135), row(2014)
    assert seeds_needed(ours, theirs) is None
    assert seeds_needed(ours, theirs, both=True) == 5
    assert seeds_needed(theirs, ours) is None
    assert seeds_needed(ours, theirs, readings()["byte"]) is None
    assert seeds_needed(row(1514), row(1493)) == 5
    assert seeds_needed(row(1514), row(1493), alpha=0.25, power=0.5) == 2


# Command


def test_command_against_a_row(tmp_path, capsys):
    """Record folder against a pull request: scores, all readings, seeds; status by the reading."""
    folder = write_logs(tmp_path / "r", {1: 1.0401, 2: 1.0402, 3: 1.0403})
    assert main([folder, "--against", "#1493"]) == 0
    assert main([folder, "--against", "1493", "--reading", "byte"]) == 0
    out = capsys.readouterr().out
    assert "ours    n=3  mean 1.04020000" in out and "1: 1.04010000" in out
    assert "theirs  n=3  mean 1.08100288" in out and "0.005 nats per sp8192 token" in out
    assert "2: enough" in out
    assert main(["#1514", "--against", "1493"]) == 1  # p = 0.020 is not under 0.01
    assert "0.020  5, so 2 more" in capsys.readouterr().out
    assert main(["1514", "--against", "SP8192_3LayerRecur_ParResid", "--reading", "byte"]) == 1
    assert "none will do" in capsys.readouterr().out


def test_command_json_and_plain_scores(capsys):
    """--json: one object with every reading; plain scores, and several, stand on either side."""
    assert main(["1.01", "1.02", "1.03", "--against", "1.11", "1.12", "1.14", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ours"]["bpb"] == [1.01, 1.02, 1.03]
    assert list(result["readings"]) == ["any", "byte", "sp1024", "sp8192"]
    fields = ["threshold_bpb", "t", "df", "p_one_sided", "gain_bpb", "ci95"]
    assert list(result["readings"]["byte"]) == [*fields, "seeds_needed", "seeds_needed_both"]
    assert result["gain_bpb"] == pytest.approx(0.1033333)
    small = ["1.0800", "1.0801", "1.0802", "--against", "1.0810", "1.0811", "1.0812"]
    assert (main(small), main([*small, "--reading", "byte"])) == (0, 1)


def test_one_seed_gets_a_sentence(tmp_path, capsys):
    """n = 1: the gain, no p, the reason, and status 1."""
    folder = write_logs(tmp_path / "r", {1: 1.04})
    assert main([folder, "--against", "1493"]) == 1
    out = capsys.readouterr().out
    assert "gain    +0.04100288 bpb" in out and "ours: 1 seed; a spread needs two or more" in out
    assert main([folder, "--against", "1493", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["readings"] == {}


def scored_on(folder, lines: str) -> str:
    """A folder with one log whose score stands in these lines."""
    folder.mkdir()
    (folder / "train_seed9.log").write_text(f"step:1/9 train_loss:2.0 train_time:5ms\n{lines}\n")
    return str(folder)


def test_scores_of_different_texts_are_refused(tmp_path, capsys):
    """Another text, a part of it, and one of equal length: one line with both, status 2, no p."""
    short = scored_on(tmp_path / "short", "final_int6 val_loss:2 val_bpb:1.1 targets:50")
    assert main([short, "1493", "--against", "1514"]) == 2
    error = capsys.readouterr().err
    assert "another on FineWeb's validation split" in error and "131 bytes" in error
    part = "legal_ttt val_loss:2.0 val_bpb_partial:1.03 targets:9 bytes:50"
    part = scored_on(tmp_path / "part", part)
    assert main(["1493", "--against", part]) == 2
    assert "part of a validation split, 50 bytes" in capsys.readouterr().err
    final = "final val_loss:2.0 val_bpb:1.0 targets:100 bytes:300 eval_time:1ms"
    folders = []
    for name, unigram in (("a", 5.1), ("b", 5.2), ("c", 5.1)):
        lines = f"unigram val_loss:{unigram} val_bpb:3.0\n{final}"
        folders.append(scored_on(tmp_path / name, f"run:logs/{name} preset:x (as asked)\n{lines}"))
    assert main([folders[0], "--against", folders[1]]) == 2
    assert "unigram losses 5.1 and 5.2" in capsys.readouterr().err
    assert main([folders[0], "--against", folders[2]]) == 1  # one text, one seed: no p
    assert "text    300 bytes" in capsys.readouterr().out


def test_a_seed_that_stands_twice_is_refused(tmp_path, capsys):
    """Two runs of one seed on one side are not two seeds; one on each side are fine."""
    folder = write_logs(tmp_path / "r", {1: 1.04, 2: 1.05})
    assert main([folder, folder, "--against", "1493"]) == 2
    assert "seed 1 stands 2 times; leave one in" in capsys.readouterr().err
    assert main([folder, "--against", folder]) == 1


@pytest.mark.parametrize(
    "words, message",
    [
        (["1260"], "1260: no per-seed scores are published"),
        (["#4"], "is no run and no row; give a log"),
        (["SP8192"], "fits several rows"),
        (["{tmp}/cut"], "no score of the artifact"),
        (["{tmp}/empty"], "no log in"),
    ],
)
def test_what_cannot_be_compared_is_status_2(tmp_path, capsys, words, message):
    """Rows without seeds, unknown and ambiguous names, runs without a score: one line, status 2."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/train.log").write_text("step:1/9 train_loss:2.0\n")
    words = [word.format(tmp=tmp_path) for word in words]
    assert main(["1493", "--against", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1
