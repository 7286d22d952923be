"""The log reader: one form for our logs and the field's, and the score that counts among many."""

import json
from pathlib import Path

import pytest

from tools.runs.logs import find_logs, main, read_log, read_runs, read_submission, to_json

ROOT = Path(__file__).parents[3]
OURS = """\
run:logs/r1 preset:smoke (as asked)
overrides SEED=42 DATA_PATH=data/my text MATRIX_LR=0.03
hparams {"run_id": "r1", "seed": 42, "train_batch_tokens": 2048, "max_wallclock_seconds": 60.0}
source train_gpt.py sha256:5810c5fbc52e1f0648f3bcc3239a7078d4b206872964be260991fc2622b9d5ee
python:3.11.7 torch:2.13.0+cu128 device:cuda:0
world_size:8 cores:2 threads:2
gpu:NVIDIA H100 80GB HBM3 cuda:12.8
data verified source:FineWeb train_shards:80/80
data train_shards:80 train_tokens:50799616 holdout_tokens:32769 val_tokens:1454637
model_params:508077
warmup steps:1 warmup_time:212ms reserve_time:6323ms
step:1/20000 train_loss:6.9334 train_time:213ms step_avg:212.99ms tok_s:9615 mfu:0.210
step:100/20000 train_loss:4.6433 train_time:20534ms step_avg:205.34ms tok_s:9973 mfu:unknown
step:100/20000 val_loss:4.6000 val_bpb:2.7000
average raw_loss:3.5706 ema_loss:3.5481 swa_loss:3.5694 exported:ema gain:0.0224
trained steps:120 train_time:59206ms cap:60000ms
peak memory allocated: 10184 MiB reserved: 10200 MiB
artifact model_bytes:316412 code_bytes:111187 total_bytes:427599 cap_bytes:16000000
score mode:blocks stride:256 isolate:0 val_loss:3.55444435 val_bpb:2.09073736 targets:1454636 \
bytes:3567805 eval_time:62236ms
score mode:sliding stride:64 isolate:0 val_loss:3.54034039 val_bpb:2.08244136 targets:1454636 \
bytes:3567805 eval_time:767789ms
unigram val_loss:5.95346162 val_bpb:3.50184822
final val_loss:3.54034039 val_bpb:2.08244136 targets:1454636 bytes:3567805 eval_time:767789ms
"""
BASELINE = """\
logs/0f9c.txt
import os
seed = 7
    log0("step:5/9 val_loss:9.9 val_bpb:9.9")
final_int8_zlib_roundtrip_exact val_loss:0.5 val_bpb:0.5
====================================================================================================
Running Python 3.12.3 (main, Jan 2026) [GCC 13.3.0]
Running PyTorch 2.9.1+cu128
| NVIDIA-SMI 570.1     Driver Version: 570.1     CUDA Version: 12.9     |
|   0  NVIDIA H100 80GB HBM3          On  |   00000000:19:00.0 Off |                    0 |
====================================================================================================
val_bpb:enabled tokenizer_kind=sentencepiece tokenizer_path=./fineweb_1024_bpe.model
train_loader:dataset:fineweb10B_sp1024 train_shards:25
val_loader:shards pattern=./fineweb_val_*.bin tokens:62021632
model_params:17059912
world_size:8 grad_accum_steps:1
attention_mode:gqa num_heads:8 num_kv_heads:4 tie_embeddings:True
train_batch_tokens:524288 train_seq_len:1024 iterations:20000 max_wallclock_seconds:600.000
seed:1337
warmup_step:1/20
step:0/20000 val_loss:6.9 val_bpb:4.1 train_time:0ms step_avg:0.02ms
step:13750/20000 train_loss:1.9910 train_time:598726ms step_avg:43.54ms
step:13780/20000 val_loss:2.0606 val_bpb:1.2172 train_time:600038ms step_avg:43.54ms
stopping_early: wallclock_cap train_time:600038ms step:13780/20000
peak memory allocated: 10184 MiB reserved: 10200 MiB
Serialized model: 67224983 bytes
Code size: 47642 bytes
Total submission size: 67272625 bytes
Serialized model int8+zlib: 15815847 bytes (payload:17178912 raw_torch:17224025 payload_ratio:3.9x)
Total submission size int8+zlib: 15863489 bytes
final_int8_zlib_roundtrip val_loss:2.0727 val_bpb:1.2244 eval_time:1401ms
final_int8_zlib_roundtrip_exact val_loss:2.07269931 val_bpb:1.22436570
"""  # the numbers after training: upstream's 2026-03-17_NaiveBaseline/train.log
PHASED = """\
Hyperparameters:
  caseops_enabled: True
  max_wallclock_seconds: 600.0
  qk_gain_schedule: []
  seed: 314
  train_batch_tokens: 786432
  val_loss_every: 4000
  world_size: 8
train_shards: 80
val_tokens: 47851520
gptq:generating autoregressive calibration data (64 seqs, seed=42)
0/20000 val_loss: 9.0076 val_bpb: 4.1158
1/20000 train_loss: 9.0087 train_time: 0.0m tok/s: 11979212
5000/20000 train_loss: 2.4398 train_time: 10.0m tok/s: 6559111
5001/20000 val_loss: 2.3466 val_bpb: 1.0722
stopping_early: wallclock_cap train_time: 599672ms step: 5001/20000
diagnostic pre-quantization post-ema val_loss:2.32046400 val_bpb:1.06026908 eval_time:9368ms
Serialized model: 135418111 bytes
Code size (uncompressed): 191274 bytes
Code size (compressed): 37155 bytes
Serialized model quantized+pergroup: 15910335 bytes
Total submission size quantized+pergroup: 15947490 bytes
diagnostic quantized val_loss:2.33886991 val_bpb:1.06867913 eval_time:10347ms
ttt_lora:warming up compile (random tokens, no val data)
ttp: b775/782 bl:2.2660 bb:1.0534 rl:2.2660 rb:1.0534 dl:6892-7524 gd:0
quantized_ttt_phased val_loss:2.31227656 val_bpb:1.05662016 eval_time:567066ms
total_eval_time:567.1s
[W419 09:01:02.435678209 AllocatorConfig.cpp:28] Warning: PYTORCH_CUDA_ALLOC_CONF is deprecated
"""  # after upstream's 2026-05-01_SP8192_PR2130Base_Calib32/train_seed314.log
STEP = "step:9/9 train_loss:2.0 train_time:500ms step_avg:55.5ms\n"


@pytest.fixture
def read(tmp_path):
    """A function that reads a log with the given text."""

    def from_text(text: str | bytes, name: str = "train.log"):
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_log(path)

    return from_text


def test_our_log_field_by_field(read):
    """Every line that train_gpt.py and evaluate.py log ends in the field that says so."""
    run = read(OURS)
    assert (run.run_id, run.seed, run.steps, run.resumed) == ("r1", 42, 120, False)
    assert run.score.name == "final" and run.score.val_bpb == 2.08244136
    assert (run.score.targets, run.score.bytes, run.score.is_partial) == (1454636, 3567805, False)
    assert "final" in run.score_reason and "22" in run.score_reason and run.score.line == 22
    assert [score.name for score in run.scores] == [
        *("score mode:blocks", "score mode:sliding", "unigram", "final")
    ]
    assert (run.train_time_ms, run.cap_ms, run.eval_time_ms) == (59206, 60000, 62236 + 767789)
    assert (run.model_bytes, run.code_bytes, run.total_bytes) == (316412, 111187, 427599)
    assert (run.val_tokens, run.train_shards, run.model_params) == (1454637, 80, 508077)
    assert (run.world_size, run.device, run.preset) == (8, "NVIDIA H100 80GB HBM3", "smoke")
    assert run.versions == {"python": "3.11.7", "torch": "2.13.0+cu128", "cuda": "12.8"}
    assert run.settings == json.loads(OURS.splitlines()[2].removeprefix("hparams "))
    wanted = {"SEED": "42", "DATA_PATH": "data/my text", "MATRIX_LR": "0.03"}
    assert run.overrides == wanted
    assert list(run.sources) == ["train_gpt.py"] and run.sources["train_gpt.py"][:4] == "5810"
    assert run.peak_memory_mib == 10184 and run.data_note.startswith("data verified source:")
    first, last = run.curve
    assert first == dict(
        step=1, train_time_ms=213, train_loss=6.9334, tok_s=9615, mfu=0.21, tokens=2048
    )
    assert (last["train_loss"], last["val_loss"], last["val_bpb"]) == (4.6433, 4.6, 2.7)
    assert run.implied_bytes() == pytest.approx(3567805, abs=1)


def test_the_recorded_run_reads_as_its_readme_says():
    """The log under records/smoke_cpu gives the figures of README.md, on the CPU."""
    (run,) = read_runs(ROOT / "records/smoke_cpu/2026-11-21_webmix_10min")
    assert (run.score.val_bpb, run.model_bytes, run.device) == (2.08244136, 316412, "cpu")
    assert run.model_params == 508077 and run.curve[-1]["step"] == run.steps == 2427


def test_ours_partial_resumed_and_warned(read):
    """A partial score is marked; a resumed run drops steps it repeats; the warning is kept."""
    text = OURS.replace("val_bpb:", "val_bpb_partial:").replace("data verified", "warning: not")
    head, tail = text.split("average ")
    again = head.splitlines()[0] + "\nresumed step:50 train_time:9000ms\n"
    again += "step:60/20000 train_loss:5.0 train_time:9900ms\n"
    run = read(head + again + "average " + tail)
    assert run.resumed and [point["step"] for point in run.curve] == [1, 60]
    assert run.score.is_partial and run.score.val_bpb == 2.08244136
    assert run.data_note.startswith("warning: not source:FineWeb")
    assert read(text).curve[-1]["is_partial"] and "is_partial" not in read(OURS).curve[-1]


def test_ours_without_a_final_line_has_no_score(read):
    """Killed in training or in scoring, or scored again and killed: no score, and it says where."""
    lines = OURS.splitlines(keepends=True)
    for keep in (13, 19, 21):
        run = read("".join(lines[:keep]))
        assert run.score is None and f"the log ends at line {keep}" in run.score_reason
    assert (run.steps, run.train_time_ms) == (120, 59206)
    assert read("".join(lines[:13])).steps == 100
    twice = read(OURS + lines[0] + "".join(lines[17:20]))
    assert twice.score is None and len(twice.scores) == 6
    begun = read(OURS + lines[0] + lines[17])
    assert begun.score is None and len(begun.scores) == 4
    thrice = read(OURS + lines[0] + "".join(lines[17:]))
    assert thrice.score.line == 28 and thrice.eval_time_ms == 62236 + 767789


def test_the_baseline_of_the_field(read):
    """Upstream's launch log: its printed source is no data, its raw model no artifact."""
    run = read(BASELINE)
    assert run.score.name == "final_int8_zlib_roundtrip_exact"
    assert (run.score.val_bpb, run.eval_time_ms) == (1.2243657, 1401)
    assert (run.model_bytes, run.code_bytes, run.total_bytes) == (15815847, 47642, 15863489)
    assert (run.seed, run.steps, run.train_time_ms, run.cap_ms) == (1337, 13780, 600038, 600000)
    assert (run.val_tokens, run.train_shards, run.model_params) == (62021632, 25, 17059912)
    assert (run.world_size, run.device, run.preset) == (8, "NVIDIA H100 80GB HBM3", None)
    assert run.versions == {"python": "3.12.3", "torch": "2.9.1+cu128", "cuda": "12.8"}
    assert run.settings["num_heads"] == 8 and run.settings["tie_embeddings"] is True
    assert [point["step"] for point in run.curve] == [0, 13750, 13780]
    assert run.curve[1]["tokens"] == 13750 * 524288
    assert not run.overrides and not run.sources and run.run_id is None


def test_the_last_generation_of_the_field(read):
    """A block of settings, `key: value`, minutes, diagnostics, phased test-time training."""
    run = read(PHASED)
    assert run.score.val_bpb == 1.05662016 and run.eval_time_ms == 567066
    assert (run.seed, run.steps, run.train_time_ms, run.cap_ms) == (314, 5001, 599672, 600000)
    assert (run.model_bytes, run.code_bytes, run.total_bytes) == (15910335, 37155, 15947490)
    assert (run.val_tokens, run.train_shards, run.world_size) == (47851520, 80, 8)
    assert run.settings["qk_gain_schedule"] == "[]" and run.settings["caseops_enabled"] is True
    assert run.curve[2] == dict(
        step=5000, train_time_ms=600000, train_loss=2.4398, tok_s=6559111, tokens=5000 * 786432
    )
    assert run.implied_bytes() == pytest.approx(151_074_499, abs=30)
    assert "diagnostic quantized" in run.score_reason


SPELLINGS = [
    *("final_int8_zlib_roundtrip_exact", "final_int8_zlib_roundtrip", "final_int6_roundtrip_exact"),
    *(
        "final_int6_sliding_window_exact",
        "final_int6_zstd_roundtrip_exact",
        "final_quant_roundtrip",
    ),
    *("final_mixed_int5int6_roundtrip_exact", "final_ternary_roundtrip_exact", "quantized"),
    *("final_binary_roundtrip", "final_sliding_window_exact", "final_sliding_window_eval_exact"),
    *("final_int8_ttt_lora", "final_int6+zstd_roundtrip", "final_INT7_zlib_roundtrip", "final"),
    *("quantized_sliding_window", "quantized_ttt", "quantized_ttt_phased", "quantized_ttt_lora"),
    *("legal_ttt_exact", "legal_ttt", "ttt_sliding:done", "sliding_window_exact", "sgd_ttt_exact"),
    *("final_int6_sliding_window_ngram5_exact", "quantized_sliding_etlb", "final_slot_exact"),
    *("final_int6_adapter_ttt", "post-quantization sliding", "final_quant_zlib_roundtrip_exact"),
    *("submission", "int6 roundtrip", "score", "final_swa_int6_roundtrip_exact"),
]


@pytest.mark.parametrize("name", SPELLINGS)
def test_thirty_names_of_the_final_score(read, name):
    """Each is taken after the validations and diagnostics of training, with its loss and time."""
    others = "pre-quantization post-ema val_loss:2.1 val_bpb:1.2 eval_time:9ms\n"
    run = read(f"{STEP}{others}{name} val_loss:2.01 val_bpb:1.19 stride:64 eval_time:7ms\n")
    assert (run.score.name, run.score.val_bpb, run.score.val_loss) == (name, 1.19, 2.01)
    assert run.eval_time_ms == 7 and len(run.scores) == 2


@pytest.mark.parametrize(
    "name",
    [
        *("pre-quantization post-ema", "DIAGNOSTIC post_ema", "diagnostic quantized", "unigram"),
        *("pre_quant", "raw", "ema", "swa", "best", "mean", "average", "baseline", "target", "gap"),
        *("final_best", "before ttt", "pre-ttt sliding", "delta", "subset", "mean_final"),
    ],
)
def test_what_is_never_the_score(read, name):
    """Diagnostics, averages before packing, means, bests and bounds are read but never taken."""
    run = read(f"{STEP}Total submission size int8: 5 bytes\n{name} val_loss:2.0 val_bpb:1.1\n")
    assert run.score is None and run.scores[0].val_bpb == 1.1
    assert "no score of the artifact" in run.score_reason and name in run.score_reason


@pytest.mark.parametrize(
    "lines, bpb",
    [
        # test-time training before sliding before blocks, in any order, better or worse
        (["quantized 1.10", "quantized_sliding_window 1.08", "quantized_ttt 1.07"], "1.07"),
        (["final_int8_ttt_lora 1.8389", "final_sliding_window_exact 2.50893917"], "1.8389"),
        (["final_int6_sliding_window_exact 1.15", "legal_ttt_exact 1.28"], "1.28"),
        (["final_sliding_window_exact 1.17", "final_quant_zlib_roundtrip_exact 1.20"], "1.17"),
        # of one kind the last, and of the lines on one evaluation the most exact
        (["quantized_ttt 1.0700", "quantized_ttt_phased 1.0800"], "1.0800"),
        (["legal_ttt_exact 1.07928348", "ttt_sliding:done 1.079283"], "1.07928348"),
        # a name that was reused for what another line calls test-time training
        (["ttt_sliding:done 1.144584", "final_int6_roundtrip_exact 1.14458409"], "1.14458409"),
    ],
)
def test_the_rule_of_preference(read, lines, bpb):
    """The most adapted score from the artifact, the last of its kind, whether or not it is best."""
    text = STEP + "".join(f"{line.replace(' ', ' val_loss:2.0 val_bpb:')}\n" for line in lines)
    assert read(text).score.val_bpb == float(bpb)
    assert bpb in read(text).score.text


def test_evaluations_are_timed_once(read):
    """Two lines on one evaluation, rounded and exact, count once; two evaluations add up."""
    run = read(
        f"{STEP}final_int6_roundtrip val_loss:1.9490 val_bpb:1.1543 eval_time:5932ms\n"
        "final_int6_roundtrip_exact val_loss:1.94903166 val_bpb:1.15432633 eval_time:5932ms\n"
        "final_int6_sliding_window val_loss:1.9110 val_bpb:1.1318 stride:64 eval_time:1.5m\n"
        "final_int6_sliding_window_exact val_loss:1.91095901 val_bpb:1.13178056\n"
    )
    assert run.eval_time_ms == 5932 + 90_000 and run.score.val_bpb == 1.13178056
    assert "2 evaluations" in run.score_reason


def test_other_shapes_of_a_score(read):
    """`=` for `:`, a kind in brackets, a key of its own, counts; a bare name after the size."""
    assert (
        read(STEP + "ttt_sliding:done val_loss=1.9 val_bpb=1.14 elapsed=1.5s\n").eval_time_ms
        == 1500
    )
    assert read(STEP + "val_bpb (int4 roundtrip): 1.60\n").score.name == "int4 roundtrip"
    assert read(STEP + "final_val_bpb: 1.25\n").score.name == "final_val_bpb"
    assert read(STEP + "| legal_ttt | BPB: 1.25\n").score.val_bpb == 1.25
    scored = "sliding_window eval_stride:128 val_loss:2.17504911 val_bpb:1.28818660"
    run = read(f"{STEP}{scored} scored_tokens:62021632 scored_bytes:151080363\n")
    assert (run.score.targets, run.score.bytes) == (62021632, 151080363)
    assert run.implied_bytes() == pytest.approx(151_080_363, abs=2)
    assert read(STEP + "val_loss:2.0 val_bpb:1.2\n").score is None
    assert read(STEP + "Code size: 9 bytes\nval_loss:2.0 val_bpb:1.2\n").score.name == ""
    assert read(STEP + "final_int8 val_loss:2.0\n").score is None  # no bpb
    assert read(STEP + "final_int8 val_loss:nan val_bpb:nan\n").score is None


@pytest.mark.parametrize(
    "end, reason",
    [
        ("", "ends at line 1"),
        ("Total submission size: 15875110 bytes\nfinal_eval_mode:sliding_window\n", "at line 3"),
        ("final_int6 val_bpb:1.2\n  ttt_chunk [71/1893] bpb=1.14 time=9.3s\n", "later evaluation"),
        ("final_int6 val_bpb:1.2\nttt_sliding:start chunks=1238\n", "later evaluation, line 3"),
        ("final_int6 val_bpb:1.2\n  sliding_eval [ 52.9%] 6/12 windows running_bpb=1.4\n", "later"),
        ("final_int6 val_bpb:1.2\nttp: b775/782 bl:2.2 bb:1.05\n", "cut off"),
        ("final_int6 val_bpb:1.2\nTraceback (most recent call last):\n  File\n    x\n"
         "torch.OutOfMemoryError: CUDA out of memory\n", "OutOfMemoryError: CUDA"),
        ("final_int6 val_bpb:1.2\n[rank0]: Traceback (most recent call last):\n", "crashed, "),
        ("final_int6 val_bpb:1.2\nKilled\n", "crashed"),
    ],
)  # fmt: skip
def test_truncated_and_crashed_logs_have_no_score(read, end, reason):
    """A log that stops before its last evaluation is done gives None, and says why."""
    run = read(STEP + end)
    assert run.score is None and reason in run.score_reason
    assert run.steps == 9


def test_a_crash_that_was_mended_does_not_count(read):
    """What is scored after a traceback, or after a new start, is the score."""
    crash = "Traceback (most recent call last):\nRuntimeError: no\n"
    assert read(f"{STEP}{crash}final_int6 val_bpb:1.2\n").score.val_bpb == 1.2
    start = "Running Python 3.12.3 (main)\n"
    again = f"{STEP}final_int6 val_bpb:1.2\n{start}{STEP}final_int6 val_bpb:1.3\n"
    assert read(again).score.val_bpb == 1.3
    assert (
        read(f"{STEP}legal_ttt val_bpb:1.1\n{start}final_int6 val_bpb:1.3\n").score.val_bpb == 1.3
    )


def test_several_runs_in_one_log(read):
    """The last run is read: its seed with its score, not the first seed with the last score."""
    one = "step:1/9 train_loss:5.0 train_time:1ms\nfinal_int6 val_bpb:1.13\n"
    run = read(f"seed:7\n{one}seed:42\n{one.replace('1.13', '1.14')}")
    assert (run.seed, run.score.val_bpb, len(run.scores)) == (42, 1.14, 2)
    assert [point["step"] for point in run.curve] == [1]
    adapted = one.replace("final_int6", "legal_ttt")
    assert read(f"seed:7\n{adapted}seed:42\n{one}").score.name == "final_int6"
    assert read("import torch\n" + STEP).steps == 9  # printed source that no ruler ends
    longer = read(f"{STEP}{one}")
    assert [point["step"] for point in longer.curve] == [1]


@pytest.mark.parametrize(
    "front",
    [
        *("[2026-04-09 12:00:01] ", "2026-04-09T12:00:01.123Z ", "12:00:01 INFO ", "[rank0]: "),
        *("2026-04-09 12:00:01,123 - root - INFO - ", "0: ", "[1,0]<stdout>: ", "rank 3: "),
        *(
            "(RayTrainWorker pid=123, ip=1.2.3.4) ",
            "[default0]:",
            "[12:00:01] [rank7]: ",
            "[1/8]: ",
        ),
        *("\x1b[32m", "\x1b[1;31m2026-04-09 12:00:01\x1b[0m | "),
    ],
)
def test_what_stands_in_front_of_a_line(read, front):
    """Times, ranks, levels, launchers' labels and colours do not hide what a line says."""
    text = "".join(front + line for line in BASELINE.splitlines(keepends=True)[11:])
    run, plain = read(text), read("".join(BASELINE.splitlines(keepends=True)[11:]))
    assert run.score.name == "final_int8_zlib_roundtrip_exact"
    for field in (
        "seed",
        "steps",
        "curve",
        "total_bytes",
        "val_tokens",
        "settings",
        "eval_time_ms",
    ):
        assert getattr(run, field) == getattr(plain, field), field


def test_line_ends_encodings_and_rewritten_lines(read):
    """CRLF, UTF-16, a byte order mark and carriage returns: the same run, the same line number."""
    plain = read(OURS)
    rewritten = OURS.replace("step:100", "\r\x1b[Kstep 7  3%  2 s\r\x1b[Kstep:100")
    for text in (
        OURS.replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + OURS.encode(),
        OURS.encode("utf-16"),
        rewritten.encode(),
    ):
        run = read(text)
        assert (run.score.line, run.curve) == (plain.score.line, plain.curve)
        assert run.total_bytes == plain.total_bytes and run.sources == plain.sources
    both = read("step:1/9 train_loss:3.0\rstep:2/9 train_loss:2.0\rstep 3\n")
    assert [point["step"] for point in both.curve] == [1, 2]


SIZES = {
    "Serialized model int6+zstd: 15624965 bytes\nCode size: 64415 bytes\n"
    "Total submission size int6+zstd: 15689380 bytes": (15624965, 64415, 15689380),
    # the total is printed without its form, after the sum of the raw model
    "Serialized model: 86099351 bytes\nCode size: 57201 bytes\n"
    "Total submission size: 86156552 bytes\n"
    "Serialized model int6+zstd: 15105576 bytes\nTotal submission size: 15162777 bytes":
        (15105576, 57201, 15162777),
    "Serialized model: 87141762 bytes\nCode size: 55069 bytes\n"
    "Total submission size (raw): 87196831 bytes": (None, 55069, None),
    "Ternary artifact: 15057568 bytes (lzma) = 15.06MB\n"
    "Total submission size: 15111456 bytes = 15.1MB":
        (15057568, None, 15111456),
    "serialized_model_int8_zlib:15815847 bytes (payload:1)\nartifact_bytes: 15,972,854":
        (15815847, None, 15972854),
    "Code size (compressed): 7 bytes\nCode size (uncompressed): 9 bytes": (None, 7, None),
    "Total submission size: 15.11 MB\nTotal artifact size: 16 MB": (None, None, None),
    "Code size (uncompressed): 9 bytes\nCode size (compressed): 7 bytes\nCode size: 5 bytes\n"
    "Serialized model x: 10 bytes\nTotal submission size x: 17 bytes": (10, 7, 17),
}  # fmt: skip


@pytest.mark.parametrize("text", SIZES, ids=range(len(SIZES)))
def test_sizes_in_their_forms(read, text):
    """The packed model's size, never the raw one's; rounded megabytes are no count of bytes."""
    run = read(STEP + text + "\n")
    assert (run.model_bytes, run.code_bytes, run.total_bytes) == SIZES[text]


def test_seeds_of_names_and_other_seeds(read):
    """The file's name gives the seed where the log does not; a calibration's seed is none."""
    assert read(STEP, "train_seed1234.log").seed == 1234
    assert read(STEP, "train_s42.log").seed == 42
    assert read(STEP, "train.log").seed is None
    assert read("seed:5\n" + STEP, "train_seed7.log").seed == 5
    assert read("gptq: calibration seed=42\n" + STEP).seed is None


def test_steps_in_other_forms(read):
    """Capital letters, bars, commas, no total; minutes and elapsed seconds; and what is no step."""
    run = read(
        "Model params: 19,716,545\nVal tokens: 49153, Train shards: 1\n"
        "Step 1/500 | train_loss: 6.9 | tok/s: 9419 | elapsed: 3.5s\n"
        "step:2 loss:5.5 train_time:0.1m\n[step 3/500] train_loss:4.5\n"
        "post_qat step:140 loss:2.1234 elapsed:15766ms\nwarmup_step:9/20\n8 loss:1\n"
    )
    assert [(p["step"], p["train_loss"], p["train_time_ms"]) for p in run.curve] == [
        *((1, 6.9, 3500), (2, 5.5, 6000), (3, 4.5, None))
    ]
    assert (run.model_params, run.val_tokens, run.train_time_ms) == (19716545, 49153, 6000)


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", bytes(range(256)) * 400, b"hello\nworld 3/4\n", b"\xff\xfe\x00"]
)
def test_what_is_no_log_is_refused(tmp_path, content):
    """An empty file, garbage and other text: a ValueError with the path and what was looked for."""
    path = tmp_path / "train.log"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match="train.log.*looked|train.log: no line as.*give a training"
    ):
        read_log(path)


def test_a_cap_that_is_no_number_is_none(tmp_path):
    """A setting that a log spells in words is not known, and nothing else is lost."""
    path = tmp_path / "train.log"
    path.write_text(
        'hparams {"seed": 4, "max_wallclock_seconds": "ten"}\nstep:1/2 train_loss:1.5\n'
    )
    assert (read_log(path).cap_ms, read_log(path).seed) == (None, 4)


def test_hostile_lines_are_read_in_passing(read):
    """Very long lines, digits without end and garbage between the lines change nothing."""
    evil = ["x" * 3_000_000, "val_loss:" + "1" * 9_000, "val_bpb " + "a(" * 9_000, "bpb_" * 9_000]
    evil += ["step:" + "9" * 5_000 + "/9 train_loss:1", "a:b" * 3_000 + " =", "seed:nan", "\0\1\2"]
    evil += ["final targets:nan bytes:inf val_bpb:inf", "Total submission size x: " + "9" * 5_000]
    lines = BASELINE.splitlines(keepends=True)
    run, plain = read("\n".join([*evil, "".join(lines[11:])])), read("".join(lines[11:]))
    assert run.score.val_bpb == plain.score.val_bpb and run.curve == plain.curve
    assert run.total_bytes == plain.total_bytes and run.seed == plain.seed


TEN_NAMES = [
    *("train.log", "train_seed42.log", "train_seed42.txt", "seed_42.log", "seed42.txt", "log.txt"),
    *("logs/train42.txt", "logs/train_seed42.log", "run_2026.log", "rerun_seed1338.log"),
]


@pytest.mark.parametrize("name", TEN_NAMES)
def test_ten_names_of_a_log(tmp_path, name):
    """Each is found in a record folder, and notes, settings and requirements are not."""
    for other in ("requirements.txt", "README.md", "submission.json", "pip.log"):
        (tmp_path / other).write_text("no log")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(STEP)
    assert find_logs(tmp_path) == [tmp_path / name]
    assert read_runs(tmp_path)[0].steps == 9


def test_logs_come_in_order_and_without_copies(tmp_path):
    """Seeds in natural order; a train.log that copies one is left out; any *.log as last resort."""
    for seed in (1337, 42, 314):
        (tmp_path / f"train_seed{seed}.log").write_text(f"seed:{seed}\n{STEP}")
    (tmp_path / "train.log").write_text(f"seed:42\n{STEP}")
    assert [run.seed for run in read_runs(tmp_path)] == [42, 314, 1337]
    (tmp_path / "x").mkdir()
    (tmp_path / "x/final_run.log").write_text(STEP)
    assert len(find_logs(tmp_path / "x")) == 1


def test_a_run_is_found_by_its_id(tmp_path, monkeypatch):
    """A run id stands for logs/<run_id>; where there is none, what was looked for is named."""
    (tmp_path / "logs/r1").mkdir(parents=True)
    (tmp_path / "logs/r1/train.log").write_text(OURS)
    monkeypatch.chdir(tmp_path)
    assert read_runs("r1")[0].run_id == "r1"
    with pytest.raises(FileNotFoundError, match="no log in logs/r2; looked for train.log"):
        read_runs("r2")


# submission.json


def submit(folder: Path, content) -> Path:
    path = folder / "submission.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_submission_json_in_the_usual_form(tmp_path):
    """Fields, seeds by name and the keys they were read from."""
    row = {"val_bpb": 1.0574, "val_loss": 2.314, "artifact_bytes": 15981945, "steps": 4888}
    raw = {
        **{"name": "N", "author": "A", "github_id": "g", "date": "2026-04-30", "track": "t"},
        **{"val_bpb": 1.05759252, "val_loss": 2.31441043, "bytes_total": 15984387},
        **{"bytes_code": 37155, "hardware": "8xH100 80GB SXM", "seeds": [42, 0]},
        "seed_results": {
            "42": {**row, "train_wallclock_ms": 596025, "eval_time_s": 572.4},
            "0": row,
        },
    }
    found = read_submission(submit(tmp_path, raw).parent)
    assert (found.name, found.author, found.github_id, found.track) == ("N", "A", "g", "t")
    assert (found.val_bpb, found.val_loss, found.hardware) == (
        1.05759252,
        2.31441043,
        raw["hardware"],
    )
    assert (found.bytes_total, found.bytes_code, found.date) == (15984387, 37155, "2026-04-30")
    assert found.seeds == {42: {**row, "train_time_s": 596.025, "eval_time_s": 572.4}, 0: row}
    assert found.keys_used["seeds"] == "seed_results" and found.raw == raw


@pytest.mark.parametrize(
    "raw, field, value, key",
    [
        ({"mean_val_bpb": 1.1}, "val_bpb", 1.1, "mean_val_bpb"),
        ({"val_bpb": None, "mean_bpb": 1.1}, "val_bpb", 1.1, "mean_bpb"),
        ({"val_bpb": "1.0810"}, "val_bpb", 1.081, "val_bpb"),
        ({"val_bpb": True}, "val_bpb", None, None),
        ({"val_loss": float("nan")}, "val_loss", None, None),
        ({"artifact_bytes": "15,990,006 bytes"}, "bytes_total", 15990006, "artifact_bytes"),
        ({"artifact_bytes_max": 5.0, "artifact_bytes": 4}, "bytes_total", 5, "artifact_bytes_max"),
        ({"bytes_total": 1.5}, "bytes_total", None, None),
        ({"authors": ["a", "b"]}, "author", "a, b", "authors"),
        ({"seeds": {"seed_7": {"bpb": 1.2}}}, "seeds", {7: {"val_bpb": 1.2}}, "seeds"),
        ({"seed_results": {"7": 1.2, "mean": 1.3}}, "seeds", {7: {"val_bpb": 1.2}}, "seed_results"),
        ({"seeds": [7], "runs": [{"seed": 7, "steps": 9}]}, "seeds", {7: {"steps": 9}}, "runs"),
        ({"seeds": [7, 8]}, "seeds", {}, None),
        ({"seeds": [7], "seed_scores": [1.2]}, "seeds", {7: {"val_bpb": 1.2}}, "seed_scores"),
        ({"seed_results": {"7": {"eval_time_ms": 1500}}}, "seeds", {7: {"eval_time_s": 1.5}},
         "seed_results"),
    ],
)  # fmt: skip
def test_submission_json_variants(tmp_path, raw, field, value, key):
    """One form out of the field's many; what is missing, null or no number is None."""
    found = read_submission(submit(tmp_path, raw))
    assert getattr(found, field) == value and found.keys_used.get(field) == key


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"a": 1,}', "submission.json: line 1, column"),
        ('{\n"a" 1}', "line 2, column 5"),
        ("[1]", "holds a list; must be one object"),
        ("", "line 1, column 1"),
    ],
)
def test_bad_json_is_named_with_its_place(tmp_path, content, message):
    """A ValueError with path, line, column and what to do."""
    with pytest.raises(ValueError, match=message):
        read_submission(submit(tmp_path, content))


def test_json_that_is_not_text_is_named(tmp_path):
    """Bytes that are no UTF-8 are an error with their place, not a traceback."""
    (tmp_path / "submission.json").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(ValueError, match="byte 7 is not UTF-8"):
        read_submission(tmp_path)


# Command


def test_json_is_one_line_a_run(tmp_path, capsys):
    """All fields, paths as text, no NaN; status 0 where every log has a score."""
    (tmp_path / "train.log").write_text(OURS.replace("train_loss:6.9334", "train_loss:nan"))
    assert main([str(tmp_path), str(tmp_path / "train.log"), "--json"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    run = json.loads(first, parse_constant=lambda name: pytest.fail(name))
    assert run["score"]["val_bpb"] == 2.08244136 and run["path"] == str(tmp_path / "train.log")
    assert run["curve"][0]["train_loss"] is None
    assert run == json.loads(to_json(read_log(tmp_path / "train.log")))


def test_exit_statuses_and_words(tmp_path, capsys):
    """1: a log without a score; 2: what is no log, one line each on stderr; others still read."""
    (tmp_path / "a.log").write_text(STEP)
    (tmp_path / "b.log").write_text("nothing")
    (tmp_path / "c.log").write_text(PHASED)
    assert main([str(tmp_path / "a.log")]) == 1
    assert "bpb none  no score of the artifact" in capsys.readouterr().out
    assert main([str(tmp_path / name) for name in ("a.log", "b.log", "c.log", "d.log")]) == 2
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 2 and "b.log" in err and "d.log" in err
    assert "bpb 1.05662016  line 26, " in out and "adapted to scored text" in out
