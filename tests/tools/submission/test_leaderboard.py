"""The leaderboard: its data file, our rows, and the page in a real browser."""

import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tools.submission import leaderboard
from tools.submission.leaderboard import find_row, load_leaderboard, main, read_own

ROOT = Path(__file__).parents[3]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
FINAL = """\
run:logs/r{seed} preset:pr334 (as asked)
hparams {{"seed": {seed}}}
world_size:8 cores:2 threads:2
gpu:NVIDIA H100 80GB HBM3 cuda:12.8
trained steps:120 train_time:{ms}ms cap:600000ms
artifact model_bytes:15000000 code_bytes:{code} total_bytes:{total} cap_bytes:16000000
final val_loss:2.1 {metric}:{bpb} targets:62021632 bytes:{text_bytes} eval_time:9ms
"""


def record(folder: Path, scores, metric="val_bpb", text_bytes=151_080_363, submission=None) -> Path:
    """A record folder with one log a seed."""
    folder.mkdir(parents=True)
    for seed, bpb in enumerate(scores, 1):
        total = 15_000_000 + seed
        (folder / f"train_seed{seed}.log").write_text(
            FINAL.format(seed=seed, ms=590_000 + seed, code=seed, total=total, metric=metric,
                         bpb=bpb, text_bytes=text_bytes)
        )  # fmt: skip
    if submission:
        (folder / "submission.json").write_text(json.dumps(submission))
    return folder


def test_the_public_history_is_whole():
    """First and last rows, the order of dates, seeds where they are published, one row a pull."""
    rows = load_leaderboard()
    final = {row.pr: round(row.bpb, 4) for row in rows if row.pr in (1945, 1953, 2014, 2135)}
    assert final == {1945: 1.0594, 1953: 1.0586, 2014: 1.0576, 2135: 1.0565}
    records = [row for row in rows if row.track == "10min_8xh100" and row.status == "record"]
    assert round(records[0].bpb, 4) == 1.2244 and records[-1].pr == 2135
    assert min(records, key=lambda row: row.bpb) == records[-1]
    dates = [row.date for row in rows if row.track == "10min_8xh100"]
    assert dates == sorted(dates) and len(records) >= 45
    pulls = [row.pr for row in rows if row.pr]
    assert len(pulls) == len(set(pulls)) and sum(bool(row.seeds) for row in rows) >= 25
    assert {row.bytes for row in rows if row.bytes and row.bytes > 16_000_000} == {16_059_704}


@pytest.mark.parametrize("name", ["549", "414", "315", "287", "10L_Int5", "49", "52", "1060"])
def test_early_rows_bear_their_seeds(name):
    """A test against them needs no words about seeds that are not public."""
    row = find_row(load_leaderboard(), name)
    assert len(row.seeds) == 3 and row.std < 0.002
    # The mean of the seeds, or by the row's note one of them.
    mean = sum(row.seeds.values()) / 3
    assert abs(row.bpb - mean) < 1e-5 or (row.bpb in row.seeds.values() and row.note)


def test_notable_runs_beside_the_record_track():
    rows = [row for row in load_leaderboard() if row.track == "unlimited"]
    assert len(rows) >= 14 and all(row.status == "non-record" and row.source for row in rows)


GOOD = {
    **{"date": "2026-04-09", "pr": 7, "bpb": 1.5, "track": "unlimited", "status": "side"},
    **{"technique": "t", "bytes": 5, "gpus": 1, "gpu": "H100", "train_minutes": 10, "source": "s"},
    "folder": None,
}
P = {"against": 1, "p": 0.5, "spread": "sample"}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"bpb": "1.5"}, "row 2 .2026-04-09, pr 7.: bpb='1.5' must be a positive number"),
        ({"bpb": 0}, "bpb=0 must be a positive number, above 0"),
        ({"bpb": float("inf")}, "bpb=inf must be"),
        ({"bpb": True}, "bpb=True must be"),
        ({"date": "2026-4-9"}, "date='2026-4-9' must be YYYY-MM-DD"),
        ({"date": "2026-02-30"}, "date="),
        ({"track": "10min"}, "track='10min' must be one of 10min_8xh100"),
        ({"status": "won"}, "status='won' must be one of record, side"),
        ({"bytes": 1.5}, "bytes=1.5 must be a whole number"),
        ({"bytes": -5}, "bytes=-5"),
        ({"technic": "x"}, "technic='x' must be left out; known fields are date"),
        ({"seeds": {"a": 1.5}}, "seeds=.* must be an object of seed: bpb"),
        ({"seeds": {"1": 1.5, "2": 1.6}}, "bpb=1.5 must be the seeds' mean 1.55000000"),
        ({"published_p": {"against": 1}}, "published_p="),
        ({"published_p": {**P, "p": 2}}, "published_p="),
        ({"published_p": {**P, "spread": "x"}}, "published_p="),
        ({"source": None}, "source=None must be text"),
        ("gpus", "gpus=None must be there: a whole number or null"),
    ],
)
def test_a_bad_row_is_named(tmp_path, change, message):
    """Row number, date, pull request, field, value and requirement."""
    bad = {**GOOD, **change} if isinstance(change, dict) else dict(GOOD)
    if isinstance(change, str):
        del bad[change]
    path = tmp_path / "leaderboard.json"
    path.write_text(json.dumps({"rows": [GOOD, bad]}))
    with pytest.raises(ValueError, match=message):
        load_leaderboard(path)


def test_good_rows_pass(tmp_path):
    """Nulls where they may stand, optional fields, a mean that a note explains."""
    more = {"seeds": {"1": 1.5, "2": 1.6}, "note": "the best", "published_p": P}
    empty = dict.fromkeys(("date", "pr", "bytes", "gpus", "gpu", "train_minutes"))
    path = tmp_path / "leaderboard.json"
    path.write_text(json.dumps({"rows": [GOOD, {**GOOD, **more}, {**GOOD, **empty}]}))
    first, second, third = load_leaderboard(path)
    assert second.seeds == {1: 1.5, 2: 1.6} and third.gpu_minutes is None
    assert first.gpu_minutes == 10 and first.std is None and second.std == pytest.approx(0.0707107)


@pytest.mark.parametrize(
    "text, message", [('{"rows": [1,]}', "line 1"), ("[]", '"rows"'), ('{"rows": [3]}', "row 1: 3")]
)
def test_a_damaged_file_is_named(tmp_path, text, message):
    """Bad JSON with its line, a file of another shape, a row that is none."""
    path = tmp_path / "leaderboard.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"leaderboard.json.*{message}"):
        load_leaderboard(path)


def test_rows_are_found_by_number_or_folder():
    """#1493, 1493 or a part of the folder's name; what does not fit names what would."""
    rows = load_leaderboard()
    assert find_row(rows, "#1493") == find_row(rows, "1493") == find_row(rows, "ParResid_QK525")
    assert find_row(rows, "naivebaseline").bpb == 1.2243657
    with pytest.raises(ValueError, match="'#5' is no run and no row; .*#2135"):
        find_row(rows, "#5")
    with pytest.raises(ValueError, match="'SP8192' fits several rows"):
        find_row(rows, "SP8192")


def test_our_rows_come_from_folders(tmp_path):
    """Mean, seeds, worst size, longest time and name of a folder; other texts are marked."""
    records = tmp_path / "records"
    record(records / "10min_8xh100/2026-11-22_ours", [1.05, 1.07, 1.06], submission={"name": "N"})
    record(records / "smoke_cpu/2026-11-23_toy_run", [2.0], text_bytes=115_267)
    record(records / "unlimited/part", [1.5], metric="val_bpb_partial")
    (records / "elsewhere/x").mkdir(parents=True)
    rows, problems = read_own(records)
    assert not problems
    first, other, last = rows
    assert (first.bpb, first.bytes, first.date) == (pytest.approx(1.06), 15_000_003, "2026-11-22")
    assert (first.technique, first.name, first.ours) == ("N", "ours", True)
    assert first.seeds == {1: 1.05, 2: 1.07, 3: 1.06} and first.is_fineweb
    assert first.gpu_minutes == pytest.approx(8 * 590.003 / 60)
    assert first.folder == "records/10min_8xh100/2026-11-22_ours"
    assert other.note == "scored on a part of the validation split" and not other.is_fineweb
    assert (last.technique, last.is_fineweb) == ("toy run", False)
    assert last.note == "scored on another text, of 115,267 bytes"


def test_bytes_are_those_that_are_shipped(tmp_path):
    """A packed record is smaller than its runs counted; where nothing is said the logs are."""
    told = {"name": "N", "bytes_total": 14_900_000}
    record(tmp_path / "10min_8xh100/2026-11-22_ours", [1.05], submission=told)
    [row], _ = read_own(tmp_path)
    assert row.bytes == 14_900_000


def test_a_track_of_artifacts_counts_no_code(tmp_path):
    """The mini track bounds the artifact alone, so its rows say how large that is."""
    record(tmp_path / "mini_cpu/2026-11-22_ours", [1.7])
    record(tmp_path / "unlimited/2026-11-22_ours", [1.7])
    rows, _ = read_own(tmp_path)
    assert {row.track: row.bytes for row in rows} == {
        "unlimited": 15_000_001,
        "mini_cpu": 15_000_000,
    }


def test_a_folder_that_cannot_be_read_is_named(tmp_path, capsys):
    """No log and no score: said on stderr with status 1, and the other rows are shown."""
    record(tmp_path / "smoke_cpu/2026-11-22_good", [2.0])
    (tmp_path / "smoke_cpu/empty").mkdir()
    (record(tmp_path / "smoke_cpu/cut", [2.0]) / "train_seed1.log").write_text(
        "Code size: 5 bytes\n"
    )
    assert main(["--records", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "good" in out and "#2135" in out
    assert "empty: no log in" in err and "cut: train_seed1.log: no score" in err


def test_this_repositorys_records_are_on_the_board(capsys):
    """Every record folder here has its row; text and JSON agree."""
    assert main([]) == 0
    text = capsys.readouterr().out
    assert "smoke test, CPU" in text and "webmix" in text and "2.08244" in text
    assert main(["--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    tracks = leaderboard.TRACKS.values()
    folders = [p for t in tracks for p in (ROOT / "records" / t.folder).glob("*/")]
    assert sum(row["ours"] for row in rows) == len(folders) >= 1
    assert [row["bpb"] for row in rows if row["track"] == "10min_8xh100"][0] == 1.05650768


def test_markdown_is_a_table_a_track(tmp_path):
    """Sections, links that lead from the file to our folder, and nothing that breaks a cell."""
    bad = "a|b <b> [x](y)"
    folder = record(tmp_path / "records/unlimited/2026-11-22_x y", [1.4], submission={"name": bad})
    path = tmp_path / "docs/board.md"
    path.parent.mkdir()
    assert main(["--records", str(folder.parents[1]), "--markdown", str(path)]) == 0
    text = path.read_text()
    assert text.count("\n## ") == 3 and "## 10 minutes, 8×H100" in text
    (line,) = [line for line in text.splitlines() if "x y" in line]
    assert line.startswith(
        "| [x y](../records/unlimited/2026-11-22_x%20y) | 2026-11-22 | 1.40000 |"
    )
    assert r"a\|b \<b\> \[x\](y)" in line
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {9}
    assert "[#1493](https://github.com/openai/parameter-golf/pull/1493)" in text


def write_page(folder: Path) -> Path:
    """The page with one row of ours whose name is hostile."""
    name = "<script>alert(1)</script>\"'&"
    record(folder / "records/10min_8xh100/2026-04-20_evil\"><img src=x>", [1.1, 1.2],
           submission={"name": name})  # fmt: skip
    record(folder / "records/smoke_cpu/2026-11-22_toy", [2.0], text_bytes=115_267)
    assert main(["--records", str(folder / "records"), "--html", str(folder / "b.html")]) == 0
    return folder / "b.html"


def test_the_page_needs_nothing_and_escapes_everything(tmp_path):
    """No address but links, a policy that forbids the rest, text that stays text, a row each."""
    text = write_page(tmp_path).read_text()
    rows = load_leaderboard()
    assert text.count("<tr data-track=") == len(rows) + 2
    assert "default-src 'none'" in text and "<img" not in text and text.count("<script>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;" in text
    elements = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: elements.append((tag, dict(attributes)))
    parser.feed(text)
    for tag, attributes in elements:
        assert tag not in ("link", "img", "iframe", "object") and "src" not in attributes
        address = attributes.get("href", "./records/")
        assert address.startswith(("https://github.com/openai/parameter-golf/", "./records/")), (
            address
        )
    assert not re.search(r"@import|url\(|fetch\(|XMLHttp", text)


def test_the_charts_have_axes_units_and_a_title_a_point(tmp_path):
    """Three figures; labels with units; every point says its row; the cap is drawn."""
    text = write_page(tmp_path).read_text()
    figures = re.findall(r"<figure>.*?</figure>", text, re.DOTALL)
    assert len(figures) == 3
    for figure in figures:
        assert "bits per byte (bpb), lower is better" in figure and 'role="img"' in figure
        marks = re.findall(r'<g class="mark (\w+)">(<title>[^<]+</title>)?', figure)
        assert marks and all(title for _, title in marks)
        for x, y in re.findall(r'<circle cx="([\d.-]+)" cy="([\d.-]+)"', figure):
            assert 56 <= float(x) <= 446 and 14 <= float(y) <= 288
    over_time, size, compute = figures
    points = re.findall(
        r'<title>[^:<]*: ([\d.]+) bpb[^<]*</title><circle[^>]* cy="([\d.]+)"', over_time
    )
    by_score = [float(y) for _, y in sorted(points, key=lambda point: float(point[0]))]
    assert len(points) > 40 and by_score == sorted(by_score, reverse=True)  # lower is further down
    place = {
        minutes: float(x)
        for x, minutes in re.findall(r'x="([\d.]+)" y="306"[^>]*>([\d,]+)<', compute)
    }
    eighty = float(re.search(r'#2135: .*?<circle cx="([\d.]+)"', compute)[1])
    share = (eighty - place["30"]) / (place["100"] - place["30"])
    assert share == pytest.approx(math.log(80 / 30) / math.log(100 / 30), abs=0.01)
    assert ">18 Mar<" in over_time and "lead" in over_time and "#2135 1.0565" in over_time
    assert (
        "millions of bytes" in size
        and ">cap<" in size
        and 'class="limit"' in size
        and "16,059,704 bytes" in size
    )
    assert "GPU minutes, logarithmic" in compute and ">1,000<" in compute
    assert 'class="mark ours"' in over_time and "toy" not in "".join(figures)


def test_axes_of_one_point_and_of_none():
    """Few rows are no reason to fail: one point gets an axis, no point gets no figure."""
    (row,) = [row for row in load_leaderboard() if row.pr == 1493]
    assert leaderboard.charts([row]).count("<figure>") == 3
    assert leaderboard.charts([]) == ""
    spans = ((0, 1), (1.05, 1.23), (15.3, 16.1), (-3, 700))
    ticks = [leaderboard.round_ticks(a, b) for a, b in spans]
    assert ticks[1] == pytest.approx([1.05, 1.1, 1.15, 1.2]) and all(
        3 <= len(t) <= 8 for t in ticks
    )


def test_a_file_that_cannot_be_written_is_status_2(tmp_path, capsys):
    """A folder that is not there: one line, status 2, nothing half-written."""
    assert main(["--records", str(tmp_path), "--html", str(tmp_path / "no/b.html")]) == 2
    assert "tools.submission.leaderboard:" in capsys.readouterr().err
    assert main(["--records", str(tmp_path / "no")]) == 2
    assert "is no folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """A function that gives the page's DOM in a browser, at an address after #."""
    if BROWSER is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    folder = tmp_path_factory.mktemp("page")
    page = write_page(folder)
    # Sandboxes need rights that a container has not; everything that asks the network is off.
    quiet = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    flags = [*quiet.split(), "--disable-component-update", "--disable-sync"]

    def dom(fragment: str, *more: str) -> str:
        profile = tmp_path_factory.mktemp("profile")
        command = [BROWSER, *flags, f"--user-data-dir={profile}", *more]
        address = page.as_uri() + fragment
        done = subprocess.run([*command, "--dump-dom", address], capture_output=True, timeout=120)
        return done.stdout.decode()

    return dom


def column(dom: str, name: str) -> list[str]:
    """The sorting values of a column, of the rows that are not hidden, in the page's order."""
    rows = re.findall(r"<tr data-track[^>]*>.*?</tr>", dom)
    cells = [re.search(rf'<td class="(?:number )?{name}" data-value="([^"]*)"', r) for r in rows]
    return [cell[1] for row, cell in zip(rows, cells, strict=True) if "hidden" not in row[:60]]


@pytest.mark.parametrize(
    "fragment, name, reverse",
    [
        *(("", "bpb", False), ("#sort=bpb,desc", "bpb", True), ("#sort=bytes,asc", "bytes", False)),
        *(("#sort=date,desc", "date", True), ("#sort=nonsense,desc", "date", True)),
    ],
)
def test_sorting_in_a_browser(browse, fragment, name, reverse):
    """By number or by text, both ways, what is not known last; the heading says which."""
    dom = browse(fragment)
    values = column(dom, name)
    filled = [value for value in values if value]
    assert len(values) == len(load_leaderboard()) + 2
    assert values == filled + [""] * (len(values) - len(filled))
    key = str if name == "date" else float
    assert list(map(key, filled)) == sorted(map(key, filled), reverse=reverse)
    sorted_by = re.findall(r'<th [^>]*aria-sort="(\w+ending)"', dom)
    assert sorted_by == ["descending" if reverse else "ascending"]


def test_the_track_is_chosen_by_the_address(browse):
    """Only that track's rows stay, sorted too; scripts in names have not run."""
    dom = browse("#sort=bpb,desc&track=10min_1gpu")
    assert set(column(dom, "track")) == {"10min_1gpu"}
    values = list(map(float, column(dom, "bpb")))
    assert values == sorted(values, reverse=True) and len(values) == 3
    assert "<img" not in dom


def test_the_page_is_drawn(browse, tmp_path):
    """A screenshot on a phone's width comes out, and is not empty."""
    picture = tmp_path / "page.png"
    browse("", f"--screenshot={picture}", "--window-size=400,900")
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000
