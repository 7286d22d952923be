"""The audit: a run, an artifact, a log, a folder or a scorer, and the command around them."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import quantize
import train_gpt
from engine.recipe import packed_settings
from engine.shards import read_shard, write_shard
from engine.trainer import read_sources
from tests.tiny_runs import tiny
from tests.tools.legality.conftest import broken_rules, finding_of
from tools.legality import audit, cheaters
from tools.legality.audit import audit_bytes, main
from tools.legality.cheaters import TEXT, Plain
from tools.legality.probes import audit_scorer

ROOT = Path(__file__).parents[3]


def test_the_example_of_the_docstring_runs(tmp_path):
    """The adapter is what the docstring says it is, to the letter."""
    example = audit.__doc__.split("and report:\n\n")[1].split("    FILES =")[0]
    code = "\n".join(line.removeprefix("    ") for line in example.splitlines())
    assert len(code.strip().splitlines()) <= 15
    scope: dict = {"load": lambda name: Model()}

    class Model:
        def __call__(self, input_T):
            return Plain().rows(input_T)

        def learn(self, tokens_T):
            self.seen = tokens_T

    exec(code, scope)
    findings = audit_scorer(scope["Mine"], TEXT)
    assert not broken_rules(findings) and {"causal", "normalised"} <= {f.rule for f in findings}


@pytest.mark.parametrize(
    "targets, size, vocab_size, rule",
    [
        (62_021_632, 151_080_363, 1024, None),
        (45_508_608, 151_074_053, 4096, None),
        (40_540_160, 151_078_222, 8192, None),
        (47_851_520, 151_074_499, 8192, None),
        (41_234_567, 151_080_891, None, None),  # another tokenizer, the same text
        (47_851_520, 164_600_000, 8192, "bytes"),  # sidecar off, #2071
        (40_540_160, 1.167 * 151_078_222, 8192, "bytes"),  # space twice, #1734
        (62_021_632, 1.0413 * 151_080_363, 1024, "bytes"),  # U+FFFD, #1289
        (62_021_632, 1.002 * 151_080_363, 1024, "bytes"),  # near, on the whole split
        (63_779_840, 155_800_000, 1024, "validation"),  # the launch baseline's other split
        (61_997_056, 61_997_056 * 2.43593, 1024, "validation"),  # tail dropped
        (9_662_464, 9_662_464 * 3.72663, 8192, "validation"),  # a subset, #1854
        (36_560_000, 36_560_000 * 3.72663, None, "validation"),  # another split, #2109
        (9_662_464, 9_662_464 * 4.5, 8192, "bytes"),
    ],
)
@pytest.mark.parametrize("digits", [4, 8])
def test_implied_bytes_tell_a_miscount_from_another_text(targets, size, vocab_size, rule, digits):
    """The facts of published logs: each whole split passes, each fault has its name."""
    loss = 3.1
    bpb = loss / np.log(2) / (size / targets)
    (finding,) = audit_bytes(round(loss, digits), round(bpb, digits), targets, vocab_size)
    if digits == 4 and targets == 61_997_056:
        return  # 0.04 % of the text: lost in the rounding of four digits
    assert (finding.level, finding.rule) == (("ok", "bytes") if rule is None else ("fail", rule))


def test_bytes_that_a_log_states_are_compared():
    """They are the divisor, to the rounding of the printed numbers; without targets no verdict."""
    loss, bpb = 3.73859635, 2.15400847
    assert audit_bytes(loss, bpb, 46_033, 1024, 115_267)[0].level == "ok"
    (finding,) = audit_bytes(loss, bpb, 46_033, 1024, 115_268)
    assert (finding.level, finding.rule) == (
        "fail",
        "bytes",
    ) and "states 115,268" in finding.evidence
    assert audit_bytes(loss, bpb, None) == []


def test_our_own_log_holds(tmp_path):
    """The log of a recorded run: bytes and clock; with other numbers in it, neither."""
    log = next(ROOT.glob("records/smoke_cpu/*/train.log"))
    findings = audit.audit_log(log)
    assert {(f.rule, f.level) for f in findings} == {("bytes", "ok"), ("phases", "ok")}
    text = log.read_text()
    took_ms = int(re.search(r"trained .*train_time:(\d+)ms", text)[1])
    for cap_ms, rules in ((took_ms, []), (took_ms - 1, ["time"])):
        (tmp_path / "late.log").write_text(re.sub(r" cap:\d+ms", f" cap:{cap_ms}ms", text))
        assert broken_rules(audit.audit_log(tmp_path / "late.log")) == rules
    (tmp_path / "part.log").write_text(text.replace("val_bpb:", "val_bpb_partial:"))
    (finding,) = [f for f in audit.audit_log(tmp_path / "part.log") if f.level != "ok"]
    assert (finding.rule, finding.level) == ("validation", "warn")


def test_faults_of_a_folder_keep_evidence_and_remedy_apart(tmp_path):
    """data.verify's sentence ends in what to do; a folder that is fine is silent."""
    cheaters.write_data(tmp_path, cheaters.TRAIN, cheaters.VAL[:2], cheaters.VAL)
    faults = [f for f in audit.audit_data(tmp_path) if f.level == "fail"]
    assert faults and all("fetch" in f.remedy and ";" not in f.evidence for f in faults)
    cheaters.write_data(tmp_path, cheaters.TRAIN, cheaters.VAL, cheaters.VAL)
    assert main([str(tmp_path)]) == 0
    sidecar = tmp_path / "kit_val_000000.bytes.bin"
    bytes_T = np.array(read_shard(sidecar))
    bytes_T[5] = 3
    write_shard(sidecar, bytes_T)
    told = json.loads((tmp_path / "manifest.json").read_text())
    entry = next(s for s in told["shards"] if s["split"] == "val")["sidecar"]
    entry["sha256"] = hashlib.sha256(sidecar.read_bytes()).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps(told))
    assert set(broken_rules(audit.audit_data(tmp_path))) == {"bytes"}


def write_artifact(folder: Path, vocab_size: int = 64, dead: bool = False) -> Path:
    """A tiny packed model that uses every parameter, unless its first MLP is dead."""
    settings = tiny(eval_stride=16, vocab_size=vocab_size)
    model = train_gpt.GPT(settings, torch.float32).init_weights(0)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(torch.randn(p.shape, generator=rng) * 0.2)
            if dead and name in ("blocks.0.mlp_scale", "blocks.0.mlp.proj.weight"):
                p.zero_()
    state = model.state_dict()
    saved = packed_settings(train_gpt.RECIPE, settings)
    blob = quantize.encode_trellis(state, quantize.flat_hessians(state), saved, 10**6)
    (folder / "artifact.pgz").write_bytes(blob)
    return folder / "artifact.pgz"


def test_our_artifact_keeps_the_rules_in_every_mode(tmp_path):
    """However it is scored: nothing moves by anything, every sum is one."""
    findings = audit.audit_artifact(write_artifact(tmp_path))
    assert not broken_rules(findings)
    assert [f.rule for f in findings if f.level == "warn"] == ["validation"]
    modes = {f.place.partition("[")[2] for f in findings if f.rule == "causal"}
    assert modes == {
        "blocks of 32]",
        "sliding by 32]",
        "isolated documents]",
        "one pass]",
        "one pass, test-time training]",
    }
    changes = [f.evidence for f in findings if f.rule in ("causal", "isolation")]
    assert len(changes) == 8 and all(text.startswith("change 0 ") for text in changes)
    ttt = [f for f in findings if f.rule == "score-first" and "training" in f.place]
    assert "2 trained on" in ttt[0].evidence
    assert finding_of(findings, "dead-feature").level == "ok"


def test_what_our_model_does_not_use_is_named(tmp_path):
    """A projection and its scale at zero, as upstream PR #334 had a table and its projection."""
    findings = audit.audit_artifact(write_artifact(tmp_path, dead=True))
    assert broken_rules(findings) == ["dead-feature", "dead-feature"]
    dead = [f.evidence for f in findings if f.level == "fail"]
    assert all("blocks.0.mlp.proj.weight" in text for text in dead)


def test_a_run_is_found_where_it_was_started(tmp_path, monkeypatch):
    """Paths of its settings: as they stand, or from the folder above logs/."""
    run = tmp_path / "logs" / "one"
    (tmp_path / "data").mkdir()
    run.mkdir(parents=True)
    assert audit.find_path("./data", run) == tmp_path / "data"
    assert audit.find_path("./other", run) is None
    monkeypatch.chdir(tmp_path)
    assert audit.find_path("./data", Path("/no/such/run")) == Path("data")


@pytest.mark.parametrize("border, first", [(None, 0), (50, 45), (2, 0), (99, 90)])
def test_the_border_of_two_shards_is_probed(border, first):
    """Where validation has two shards the text to probe with is around their border."""
    assert audit.probe_tokens(np.arange(100), 10, border).tolist() == [*range(first, first + 10)]


@pytest.mark.slow
def test_a_whole_run_is_audited(tmp_path, toy, capsys):
    """Sources, settings, text: bytes, split and files as well; a source that peeks is caught."""
    for name, source in read_sources(train_gpt.RECIPE).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(source)
    artifact = write_artifact(tmp_path, vocab_size=1024)
    paths = {
        "data_path": str(toy / "datasets/toy_sp1024"),
        "tokenizer_path": str(toy / "tokenizers/toy_1024_bpe.model"),
    }
    (tmp_path / "settings.json").write_text(json.dumps({**paths, "eval_stride": 16}))
    assert main([str(tmp_path), "--verbose"]) == 0
    out = capsys.readouterr().out
    for rule in ("bytes", "validation", "artifact-only", "network", "causal", "isolation"):
        assert f"OK    {rule}  " in out
    assert "0 fail, 0 warn" in out.splitlines()[-1]
    secret = tmp_path / "secret.txt"
    secret.write_text("1")
    source = tmp_path / "train_gpt.py"
    line = "        self.compute_dtype = compute_dtype\n"
    peek = f"        open({str(secret)!r}).read()\n"
    assert line in source.read_text()
    source.write_text(source.read_text().replace(line, line + peek))
    assert main([str(artifact)]) == 1
    assert "FAIL  artifact-only" in capsys.readouterr().out


SCORER = '''
"""A scorer whose weights lie beside it."""
import numpy as np
FILES = ["weights.txt"]

def next_logp(tokens_T):
    logits_V = np.fromstring(open("weights.txt").read(), sep=" ") * (1 + tokens_T[-1])
    return logits_V - np.log(np.exp(logits_V).sum())

def made():
    from tools.legality.audit import Stream
    scorer = Stream(next_logp)
    scorer.vocab_size = 8
    return scorer
'''


@pytest.fixture
def scorer(tmp_path) -> Path:
    (tmp_path / "scorer.py").write_text(SCORER)
    (tmp_path / "weights.txt").write_text("0 .1 .2 .3 .4 .5 .6 .7")
    return tmp_path / "scorer.py"


def test_a_foreign_scorer_is_probed_and_then_run_alone(scorer, monkeypatch, capsys):
    """FILE.py:NAME: in its own folder, with the files that it names."""
    seen = []
    monkeypatch.setattr(
        audit, "audit_alone", lambda *args, **options: seen.append((args, options)) or []
    )
    assert main(["--trust", f"{scorer}:made", "--verbose"]) == 0
    assert "OK    causal  scorer.py:made: change 0" in capsys.readouterr().out
    ((command, folder, files, _), _) = seen[0]
    assert command[-2:] == ["--total", "scorer.py:made"] and folder == scorer.parent
    assert files == ["scorer.py", "weights.txt"]
    monkeypatch.chdir(folder)
    assert main(["--total", "scorer.py:made"]) == 0
    first = capsys.readouterr().out
    assert first.startswith("total nats:") and first.endswith("targets:399\n")


def test_more_positions_find_a_rare_leak(tmp_path, monkeypatch, capsys):
    """A leak through three ids of three hundred passes few positions, and not many."""
    code = """
import numpy as np
class Peek:
    vocab_size = 300
    def evaluate(self, tokens_T, log):
        num_targets = len(tokens_T) - 1
        logits_TV = np.random.default_rng(0).normal(size=(300, 300))[tokens_T[:-1]]
        logits_TV[:-3, 5] += tokens_T[4:] % 100 == 7
        logp_TV = logits_TV - np.log(np.exp(logits_TV).sum(axis=1, keepdims=True))
        log.score(0, num_targets, -logp_TV[range(num_targets), tokens_T[1:]], logp_TV)
"""
    (tmp_path / "peek.py").write_text(code)
    monkeypatch.setattr(audit, "audit_alone", lambda *args, **options: [])
    assert main(["--trust", f"{tmp_path}/peek.py:Peek", "--positions", "3"]) == 0
    assert main(["--trust", f"{tmp_path}/peek.py:Peek", "--positions", "400"]) == 1
    assert "FAIL  causal  peek.py:Peek" in capsys.readouterr().out


@pytest.mark.slow
def test_a_foreign_scorer_is_run_alone_for_real(scorer, capsys):
    """Its weights are named: fine. Not named: it cannot run, and that breaks artifact-only."""
    assert main(["--trust", f"{scorer}:made", "--verbose"]) == 0
    assert "OK    artifact-only" in capsys.readouterr().out
    scorer.write_text(SCORER.replace('FILES = ["weights.txt"]', ""))
    assert main(["--trust", f"{scorer}:made"]) == 1
    out = capsys.readouterr().out
    assert "FAIL  artifact-only  scorer.py:made: fails with scorer.py alone" in out


@pytest.mark.parametrize(
    "name, code, says",
    [
        ("nothing", SCORER, "has no 'nothing'"),
        ("next_logp", SCORER, "must have vocab_size or tokens_T"),
        ("made", "def made(:", "SyntaxError"),
        ("made", "import no_such_module", "ModuleNotFoundError"),
        ("made", SCORER.replace("vocab_size = 8", "vocab_size = 9"), "IndexError"),
    ],
)
def test_a_scorer_that_fails_is_one_line_and_status_2(scorer, capsys, name, code, says):
    """What goes wrong in foreign code is no verdict, and no traceback of ours."""
    scorer.write_text(code)
    assert main(["--trust", f"{scorer}:{name}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tools.legality.audit: ") and says in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "name, says",
    [
        ([], "name a run, an artifact, a log"),
        (["no/such/thing"], "must be an artifact, a log, a folder, or FILE.py:NAME"),
        (["empty"], "holds no artifact.pgz, train.log or"),
        (["broken.pgz"], "broken.pgz"),
        (["nothing.log"], "nothing.log"),
        (["scorer.py"], "give scorer.py:NAME"),
    ],
)
def test_nothing_to_probe_is_status_2(tmp_path, monkeypatch, capsys, name, says):
    """Nothing named, nothing there, nothing in it: one line that says what to do."""
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("broken.pgz").write_bytes(b"no artifact")
    Path("nothing.log").write_text("no log\n")
    Path("scorer.py").write_text(SCORER)
    assert main(name) == 2
    captured = capsys.readouterr()
    assert says in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_json_is_one_object_and_a_fault_is_status_1(tmp_path, capsys):
    """--json: findings with rule, level, where, evidence and remedy."""
    text = next(ROOT.glob("records/smoke_cpu/*/train.log")).read_text()
    (tmp_path / "train.log").write_text(text.replace("targets:", "targets:1"))
    assert main([str(tmp_path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    (fault,) = [f for f in told["findings"] if f["level"] == "fail"]
    assert told["status"] == 1 and fault["rule"] == "bytes" and fault["remedy"]
    assert fault["where"].startswith(str(tmp_path / "train.log") + ":")


def test_paths_of_a_run_are_found_and_shown_without_the_machines_folders(tmp_path, monkeypatch):
    """From where logs/ lies or from here; relative where that is possible."""
    run, text = tmp_path / "work/logs/one", tmp_path / "work/data"
    run.mkdir(parents=True)
    text.mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert audit.find_path("./data", run) == Path("data")
    monkeypatch.chdir(run)
    assert audit.find_path("./data", run) == text
    assert audit.find_path("nowhere", run) is None


PEEKS = """
from transformers import GPT2LMHeadModel


class Peeks(GPT2LMHeadModel):
    def forward(self, input_ids, **how):
        output = super().forward(input_ids.flip(1), **how)
        output.logits = output.logits.flip(1)
        return output
"""


@pytest.fixture
def published(tmp_path) -> Path:
    """A Hugging Face folder without code: a stock model of transformers, tiny."""
    transformers = pytest.importorskip("transformers", reason="python3 golf.py --with hf test")
    config = transformers.GPT2Config(
        vocab_size=64, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=1
    )
    folder = tmp_path / "published"
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_a_hugging_face_folder_is_audited(published, capsys):
    """Windows, distributions and parameters of a stock model; without text a warning, no more."""
    assert main([str(published), "--verbose"]) == 3
    out = capsys.readouterr().out
    assert "OK    causal" in out and "sliding by" in out and "isolated documents" in out
    assert "OK    normalised" in out and "FAIL" not in out


def test_code_of_a_hugging_face_folder_is_run_only_when_trusted(published, capsys, monkeypatch):
    """Its hash is named; once trusted, what it does with later tokens is seen."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(published.parent / "modules"))
    (published / "modeling_peeks.py").write_text(PEEKS)
    config = json.loads((published / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_peeks.Peeks"}
    (published / "config.json").write_text(json.dumps(config))
    assert main([str(published)]) == 2
    error = capsys.readouterr().err
    assert re.search(r"modeling_peeks.py [0-9a-f]{64}", error) and "--trust" in error
    assert main([str(published), "--trust"]) == 1
    assert "FAIL  causal" in capsys.readouterr().out
