"""README.md and submission.json: every number from a log, and made again from the folder alone."""

import hashlib
import json
from pathlib import Path

import pytest

from tests.tools.submission import test_pack
from tests.tools.submission.test_pack import FOLDER, SOURCES, pack
from tools.submission import bundle
from tools.submission.documents import PACKED_BY, render

runs = test_pack.runs  # the fixture


def test_provenance_names_the_line(runs):
    """Each number of a log is traced to a file and line that hold it."""
    assert pack(runs) == 0
    content = json.loads((FOLDER / "submission.json").read_text())
    digits = {"val_bpb": 8, "val_loss": 8, "artifact_bytes": 0, "steps": 0, "total_bytes_as_run": 0}
    for seed, row in content["seed_results"].items():
        for key, places in digits.items():
            name, _, line = content["provenance"][f"seed_results.{seed}.{key}"].partition(":")
            text = (FOLDER / name).read_text().splitlines()[int(line) - 1]
            assert f":{row[key]:.{places}f}" in text
    computed = {key for key, value in content.items() if isinstance(value, int | float)}
    assert computed <= content["provenance"].keys()


def test_the_readme_tells_it(runs):
    """Results, changed settings, exact commands, bytes, launches and hashes stand in the README."""
    Path("idea.md").write_text("Five bits a weight.")
    assert pack(runs, "--about", "idea.md") == 0
    content = json.loads((FOLDER / "submission.json").read_text())
    text = (FOLDER / "README.md").read_text()
    row = content["seed_results"]["2"]
    assert f"| 2 | {row['val_bpb']} | {row['val_loss']} | 500 | 588.002 |" in text
    assert f"| mean | {content['val_bpb']} |" in text
    assert "Five bits a weight." in text and content["blurb"] == "Five bits a weight."
    assert "| `ITERATIONS` | 20000 | 500 |" in text and "| `MATRIX_LR` | 0.04 | 0.03 |" in text
    assert "SEED` |" not in text and "RUN_ID" not in text
    command = "PRESET=pr334 SEED=3 ITERATIONS=500 MATRIX_LR=0.03"
    assert f"{command} torchrun --standalone --nproc_per_node=8 train_gpt.py\n" in text
    assert "| `w.weight` | 1 | 128 |" in text and "| s2 | 2 | " in text
    hashes = {name: hashlib.sha256(source.encode()).hexdigest() for name, source in SOURCES.items()}
    assert content["sources_sha256"] == bundle.hash_of_all(hashes)
    assert content["sources_sha256"] in text and "Sources, as they come out of" in text
    assert f"{content['bytes_total']:,}" in text and f"{content['bytes_total_as_run']:,}" in text


def test_the_same_folder_gives_the_same_bytes(runs):
    """README.md and submission.json can be made again from the folder alone, without the runs."""
    assert pack(runs) == 0
    content = json.loads((FOLDER / "submission.json").read_text())
    assert content["packed_by"] == PACKED_BY == "tools.submission.pack 4"
    moved = FOLDER.rename(FOLDER.with_name("elsewhere"))
    for name, data in render(moved, content).items():
        assert (moved / name).read_bytes() == data


def test_a_folder_from_before_the_tools_moved_keeps_its_words(runs):
    """Its README.md names the tools as they were then, and is still made again byte for byte."""
    assert pack(runs) == 0
    content = json.loads((FOLDER / "submission.json").read_text())
    former = render(FOLDER, content, "records.pack 1")
    now = render(FOLDER, content)
    assert b"python -m records.source unpack" in former["README.md"]
    assert b"python -m tools." not in former["README.md"] and b"records." not in now["README.md"]
    told = json.loads(former["submission.json"])
    del content["sources_sha256"]
    assert told == content | {"packed_by": "records.pack 1"}
    assert b"Sources, as they ran:" in former["README.md"]
    with pytest.raises(KeyError):
        render(FOLDER, content, "records.pack 2")
