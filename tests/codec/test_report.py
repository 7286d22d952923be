"""Where an artifact's bytes go: codec/report.py."""

import json

import pytest
import torch

import quantize
from codec import container, report
from codec.report import byte_account
from quantize import PlanRow, decode, encode, encode_trellis
from tests.codec.test_container import dissect
from tests.codec.test_rows import INT5, SMALL_PLAN, gaussian, small_state
from tests.test_quantize import calibrated


def test_report_accounts_for_every_byte_and_error():
    """Group bytes and the container add up to the file; errors are those of the decoded weights."""
    state = {f"blocks.{i}.w": gaussian(32, 64, seed=i) for i in range(12)} | {"v": gaussian(9)}
    blob = encode(state, (PlanRow("blocks.*", 6, 3.0), PlanRow("v", 16)), {})
    summary = byte_account(blob, state)
    assert set(summary["groups"]) == {"blocks.*.w", "v"}
    header, streams = dissect(blob)
    assert sum(group["bytes"] for group in summary["groups"].values()) == len(streams)
    assert summary["bytes"] == len(blob) and summary["parameters"] == 12 * 32 * 64 + 9
    weights = decode(blob)[0]
    error = torch.cat([(weights[n] - w).flatten() for n, w in state.items() if n != "v"]).norm()
    power = torch.cat([w.flatten() for n, w in state.items() if n != "v"]).norm()
    group = summary["groups"]["blocks.*.w"]
    assert group["tensors"] == 12
    assert group["relative_rms"] == pytest.approx(float(error / power), rel=1e-4)
    assert group["sqnr_db"] == pytest.approx(-20 * torch.log10(error / power).item(), rel=1e-4)


def test_entropy_bound_of_known_codes():
    """Four equally frequent codes in 64 weights and one constant scale need 16 bytes."""
    weight = torch.tensor([[-3.0, -1.0, 1.0, 3.0] * 16])
    group = byte_account(encode({"w": weight}, (PlanRow("w", 3, 3 / 5**0.5),), {}))["groups"]["w"]
    assert group["entropy_bytes"] == pytest.approx(16.0)


def test_report_refuses_another_models_reference():
    """A reference with other names or shapes is an error that names a tensor."""
    blob = encode({"w": gaussian(2, 3)}, INT5, {})
    for other in ({"w": gaussian(3, 2)}, {"u": gaussian(2, 3)}, {}):
        with pytest.raises(ValueError, match="differ in.*'[uw]'"):
            byte_account(blob, other)


def test_report_accounts_for_points():
    """Groups, side information and header are all the bytes; the bound is close to the words."""
    state = small_state() | {"w": gaussian(300, 200, seed=5)}
    blob = encode_trellis(state, calibrated(state), {}, 30_000)
    summary = byte_account(blob, state)
    groups = summary["groups"]
    header_bytes = container.PREFIX.unpack_from(blob)[2]
    outside = container.PREFIX.size + header_bytes + quantize.CHECKSUM_BYTES
    total = sum(group["bytes"] for group in groups.values())
    assert abs(total + outside - len(blob)) <= len(groups)  # each is rounded
    assert groups["w"]["bytes"] == pytest.approx(groups["w"]["entropy_bytes"], rel=0.01)
    expected = (decode(blob)[0]["w"] - state["w"]).norm() / state["w"].norm()
    assert groups["w"]["relative_rms"] == pytest.approx(float(expected), rel=1e-5)
    assert groups["exponents and tables of the points"]["bits_per_parameter"] is None
    assert "exponents and tables" in report.format_account(summary)
    plan, groups_w = summary["plan"], groups["w"]
    assert set(plan) == set(state) and plan["bigram.scale"] == {"bits": 16}
    assert plan["w"]["bits"] == pytest.approx(8 * groups_w["entropy_bytes"] / 60_000)
    _, entries, offset = quantize.read_header(blob)
    steps = {entry.name: step for entry, _, step in quantize.read_points(blob, entries, offset)}
    assert {name: plan[name]["base_step"] for name in steps} == steps and "w" in steps
    rows = byte_account(encode(small_state(), SMALL_PLAN, {}))["plan"]
    assert rows["blocks.0.attn.q.weight"] == {"bits": 5}


def test_report_takes_points_that_cost_nothing():
    """All zeros have no coded words to share, and no error in decibels."""
    state = {"w": torch.zeros(16, 16)}
    blob = encode_trellis(state, quantize.flat_hessians(state), {}, 1000)
    group = byte_account(blob, state)["groups"]["w"]
    assert (group["bytes"], group["entropy_bytes"], group["sqnr_db"]) == (0, 0, None)


def test_size_is_close_to_the_entropy_bound():
    """Codes one to a byte cost at most 2 % over their order-0 entropy, and not less than it."""
    blob = encode({"w": gaussian(256, 512)}, INT5, {})
    summary = byte_account(blob)
    assert 1.0 < summary["bytes"] / summary["entropy_bytes"] < 1.02
    assert summary["bits_per_parameter"] == pytest.approx(4.41, rel=0.02)


def test_command_prints_a_table_or_json(tmp_path, capsys):
    """With --reference the errors stand in both; a file at fault is one line on stderr."""
    state, out, path = small_state(), tmp_path / "a.pgz", tmp_path / "weights.pt"
    out.write_bytes(encode(state, SMALL_PLAN, {}))
    torch.save(state, path)
    assert report.main([str(out), "--reference", str(path), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads(json.dumps(byte_account(out.read_bytes(), state)))
    assert report.main([str(out)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[1].startswith("tok_emb.weight") and table[-1].split()[-3] == str(summary["bytes"])
    for bytes_at_fault, reason in ((b"precious", "truncated"), (path.read_bytes(), "magic")):
        out.write_bytes(bytes_at_fault)
        assert report.main([str(out)]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1 and reason in captured.err
