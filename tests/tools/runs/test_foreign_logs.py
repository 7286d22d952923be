"""The field's logs: one form out of many, and the score that counts among many."""

import pytest

from tools.runs.logs import read_log

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
    "Total submission size: 15.11 MB\nTotal artifact size: 16 MB": (None, None, 16_000_000),
    "artifact:15.92MB": (None, None, 15_920_000),
    "artifact: 15.5 MiB code_bytes:7": (None, 7, 16_252_928),
    "Code size (uncompressed): 9 bytes\nCode size (compressed): 7 bytes\nCode size: 5 bytes\n"
    "Serialized model x: 10 bytes\nTotal submission size x: 17 bytes": (10, 7, 17),
}  # fmt: skip


@pytest.mark.parametrize("text", SIZES, ids=range(len(SIZES)))
def test_sizes_in_their_forms(read, text):
    """The packed model's size, never the raw one's; megabytes where a log has nothing finer."""
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
