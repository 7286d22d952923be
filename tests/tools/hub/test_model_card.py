"""The card of a published model: counts, front matter that parses, and only the run's numbers."""

import ast
import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

import train_gpt
from baselines import gpt2_124m, preln_53m
from baselines.adamw import AdamWSettings
from baselines.models import gpt2, preln
from baselines.teachers import TeacherSettings
from tests.tools.hub.test_architectures import SMALL, settings_of
from tools.hub import model_card
from tools.hub import tokenizer as hf_tokenizer
from tools.hub.architectures import HUB_MODELS, build_hub_model, published_weights

SHAPE = dict(vocab_size=61, num_layers=2, model_dim=48, num_heads=4, seq_len=64)
SETTINGS = {
    "gpt2_124m": settings_of("baselines.gpt2_124m", gpt2.Config(**SHAPE)),
    "preln_53m": settings_of("baselines.preln_53m", preln.Config(**SHAPE)),
    "preln_53m_untied": settings_of("baselines.preln_53m", preln.Config(**SHAPE, tied=False)),
    "golf": SMALL["golf"],
}
RECIPES = {"gpt2_124m": gpt2_124m.RECIPE, "preln_53m": preln_53m.RECIPE}
FINAL = (
    "artifact model_bytes:1000 code_bytes:10 total_bytes:1010 cap_bytes:inf\n"
    "final val_loss:2.50000000 val_bpb:1.25000000 targets:4000 bytes:11541 eval_time:7ms\n"
)


def counts(system: str) -> tuple[dict, int, int]:
    """Settings, stored and trained parameters."""
    settings = SETTINGS[system]
    weights = dict(build_hub_model(settings, device="meta").named_parameters())
    published = published_weights(settings, weights)
    stored, trained = (sum(w.numel() for w in ws.values()) for ws in (published, weights))
    return settings, stored, trained


def run_folder(folder: Path, system: str, final: str = FINAL, **changes) -> Path:
    """A run's files as the trainer writes them, and the path of its checkpoint."""
    recipe = RECIPES[system].Settings(data_path="data/tinystories_gpt2")
    settings = dataclasses.asdict(dataclasses.replace(recipe, **changes))
    text = json.dumps(settings | {"run_id": "r1", "preset": system})
    (folder / "settings.json").write_text(text)
    _, _, trained = counts(system)
    log = (
        f"run:logs/r1 preset:{system} (as asked)\nhparams {json.dumps(settings)}\n"
        "python:3.11.7 torch:2.13.0 device:cpu\nworld_size:1 cores:2 threads:2\n"
        f"model_params:{trained}\n"
        "step:1/20 train_loss:9.0000 train_time:5ms step_avg:5.00ms tok_s:9 mfu:unknown\n"
        "step:20/20 train_loss:4.2500 train_time:9ms step_avg:5.00ms tok_s:9 mfu:unknown\n"
        "trained steps:20 train_time:9000ms cap:0ms\n"
    )
    (folder / "train.log").write_text(log + final)
    lines = [
        dict(step=1, train_loss=9.0),
        dict(step=9, val_loss=5.5),
        dict(step=20, train_loss=4.25),
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "checkpoint.pt").write_bytes(b"not read here")
    return folder / "checkpoint.pt"


def text_of(system: str, source: Path) -> str:
    settings, stored, trained = counts(system)
    evidence = model_card.read_evidence(source, trained)
    return model_card.model_card(
        HUB_MODELS[SETTINGS[system]["recipe"]], settings, stored, trained, evidence, None
    )


@pytest.mark.parametrize(
    "system, remote", [("golf", ", trust_remote_code=True"), ("gpt2_124m", "")]
)
def test_the_example_loads_what_there_is(tmp_path, system, remote):
    """It is Python; a tokenizer is loaded where AutoTokenizer can, own code where there is some."""
    form, evidence = HUB_MODELS[SETTINGS[system]["recipe"]], model_card.Evidence()
    whole_tokenizer = hf_tokenizer.Written(8, "Eight tokens.", is_whole=True)
    for tokenizer, names in (
        (whole_tokenizer, ["AutoModelForCausalLM", "AutoTokenizer"]),
        (dataclasses.replace(whole_tokenizer, is_whole=False), ["AutoModelForCausalLM"]),
        (None, ["AutoModelForCausalLM"]),
    ):
        text = model_card.model_card(form, SETTINGS[system], 1, 1, evidence, tokenizer)
        assert ("Eight tokens." if tokenizer else "No tokenizer is included") in text
        code = text.split("```python\n")[1].split("```")[0]
        first, *statements = ast.parse(code).body
        assert [alias.name for alias in first.names] == names
        loads = [ast.unparse(statement.value) for statement in statements[: len(names)]]
        assert loads == [f"{name}.from_pretrained('THIS FOLDER'{remote})" for name in names]
        assert ("model.generate(**inputs" in code) == (len(names) == 2)


def test_parameters_are_counted_as_they_are_stored(tmp_path):
    """Padded rows are told apart; a tied head counts once, an untied one twice."""
    source = run_folder(tmp_path, "gpt2_124m")
    _, stored, trained = counts("gpt2_124m")
    assert trained - stored == 67 * 48
    text = text_of("gpt2_124m", source)
    assert f"{stored:,} parameters; the head is the embedding and is counted once." in text
    assert f"In training there were {trained:,}" in text
    for path in tmp_path.iterdir():
        if path.suffix != ".pt":
            path.unlink()
    _, stored, trained = counts("preln_53m_untied")
    text = text_of("preln_53m_untied", source)
    assert f"{stored:,} parameters; embedding and head are two tensors" in text
    assert "In training there were" not in text


def test_the_score_is_the_runs_with_its_log_and_line(tmp_path):
    """Loss, its exponential, bits per byte, how they were taken, and of which weights."""
    source = run_folder(tmp_path, "gpt2_124m")
    text = text_of("gpt2_124m", source)
    assert f"- perplexity: {math.exp(2.5):.8f} (exp of that loss" in text
    line = (tmp_path / "train.log").read_text().splitlines().index(FINAL.splitlines()[1]) + 1
    assert f"- bits_per_byte: 1.25000000 (bits per byte, of the run's packed weights; train.log line {line})" in text  # fmt: skip # noqa: E501
    assert "the run `r1`: `train.log` in this folder" in text and "4,000 targets, 11,541" in text
    assert "the weights here are those before it" in text.replace("\n", " ")
    smooth = 0.95 * 9.0 + 0.05 * 4.25
    assert f"- smoothed train_loss: {smooth:.6f}" in text and "over the 2 steps" in text
    assert "- val_loss: 5.5, the last one during training" in text
    assert "20 steps of 524,288 tokens: 10,485,760 tokens, context 1,024" in text
    assert "AdamW, betas (0.9, 0.95), eps 1e-08, decay 0.1" in text
    assert "9 s on 1 x cpu, torch 2.13.0" in text and "norm 1.0" in text
    source.write_bytes(model_card.quantize.MAGIC + b"...")
    text = text_of("gpt2_124m", source)
    assert "packed weights" not in text and "those before it" not in text


def test_what_was_not_measured_is_not_stated(tmp_path):
    """No run, no numbers; a run that was not scored has losses of training and no index."""
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    text = text_of("preln_53m", tmp_path / "checkpoint.pt")
    assert "Nothing yet." in text and "no run lies beside" in text
    assert "model-index" not in text and "datasets" not in text
    for number in ("0.785740", "0.875080", "3.46", "46.5", "39.5"):
        assert number not in text
    text = text_of("preln_53m", run_folder(tmp_path, "preln_53m", final=""))
    assert "- train_loss: 4.25" in text and "model-index" not in text and "perplexity:" not in text


def test_a_part_of_the_validation_text_is_called_that(tmp_path):
    """A partial score is no score of the split; without bytes there are no bits per byte."""
    partial = FINAL.replace("val_bpb:", "val_bpb_partial:")
    text = text_of("gpt2_124m", run_folder(tmp_path, "gpt2_124m", final=partial))
    assert "bits per byte of a part of the validation text" in text


def test_a_log_of_another_model_is_refused(tmp_path):
    """The numbers of one model never stand on the card of another."""
    source = run_folder(tmp_path, "gpt2_124m")
    _, _, trained = counts("preln_53m")
    with pytest.raises(ValueError, match=f"train.log is of a model with .* has {trained:,}"):
        model_card.read_evidence(source, trained)


def test_data_are_named_as_the_hub_names_them():
    """By the folder's name; unknown ones are not guessed."""
    names = {
        "data/fineweb10B_sp1024": "HuggingFaceFW/fineweb",
        "data/fineweb_edu_gpt2": "HuggingFaceFW/fineweb-edu",
        "data/TinyStories": "roneneldan/TinyStories",
        "data/c4_mistral": "allenai/c4",
        "data/webmix_sp1024": "",
        "data/public4k_sp1024": "",
        "data/music4_sp1024": "",
        "data/c4you_sp1024": "",
    }
    for path, name in names.items():
        assert model_card.Evidence(settings={"data_path": path}).dataset == name


def test_the_front_matter_parses(tmp_path):
    """As YAML and by the hub's own reader: licence, data, metrics, an index with our numbers."""
    hub = pytest.importorskip("huggingface_hub", reason="pip install huggingface_hub")
    source = run_folder(tmp_path, "preln_53m", data_path="data/fineweb_edu_gpt2", teacher="t/c.pt")
    text = text_of("preln_53m", source)
    assert "distilled from `c.pt`: alpha 0.5, temperature 2.0" in text
    data = hub.ModelCard(text).data
    assert (data.language, data.license, data.library_name) == ("en", "mit", "transformers")
    assert data.pipeline_tag == "text-generation" and data.tags == ["nanogpt", "causal-lm"]
    assert data.datasets == ["HuggingFaceFW/fineweb-edu"] and data.metrics == ["perplexity"]
    assert data.model_name == "preln_53m"
    metrics = {r.metric_type: r.metric_value for r in data.eval_results}
    assert metrics == {
        "loss": 2.5,
        "perplexity": pytest.approx(math.exp(2.5)),
        "bits_per_byte": 1.25,
    }
    assert {r.dataset_type for r in data.eval_results} == {"HuggingFaceFW/fineweb-edu"}
    assert all("train.log line" in r.metric_name for r in data.eval_results)


def test_the_golf_recipe_is_described_by_its_own_settings():
    """Muon and Adam with their rates; settings of no known kind say nothing."""
    golf = dataclasses.asdict(train_gpt.Settings())
    text = "\n".join(model_card.optimizer_lines(golf))
    assert "Muon for matrices, rate " in text and "Adam for the rest" in text
    assert model_card.optimizer_lines({"seed": 1}) == [] and "distilled" not in text
    taught = golf | dataclasses.asdict(TeacherSettings(teacher="t/c.jsonl"))
    assert "distilled from `c.jsonl`: alpha 0.5" in "\n".join(model_card.optimizer_lines(taught))


def test_a_second_stage_says_that_there_was_a_first():
    """Its steps and tokens are then not all that the weights have seen."""
    plain = AdamWSettings()
    staged = AdamWSettings(start_from="logs/a/checkpoint.pt")
    texts = [
        "\n".join(model_card.optimizer_lines(dataclasses.asdict(hp))) for hp in (plain, staged)
    ]
    assert ["begun with the weights of `checkpoint.pt`" in text for text in texts] == [False, True]


def test_losses_are_smoothed_as_the_run_was_set():
    """As the report smooths them; the formula is that of the number."""
    evidence = model_card.Evidence(settings={"loss_smoothing": 0.5}, losses=[8.0, 4.0])
    smoothed = model_card.measured_lines(evidence)[1]
    assert "- smoothed train_loss: 6.000000, by s = 0.5 s + 0.5 loss" in smoothed
    assert model_card.measured_lines(evidence)[0].startswith("- train_loss: 4.0 nats per token")


def test_a_teacher_s_loss_is_not_called_nats_per_token():
    """It is a mixture with the teacher's, at another temperature."""
    evidence = model_card.Evidence(settings={"teacher": "c.pt"}, losses=[8.0, 4.0])
    assert model_card.measured_lines(evidence)[0].startswith(
        "- train_loss: 4.0 of what the teacher asks"
    )


@pytest.mark.parametrize(
    "stride, words",
    [(0, "in one pass over each document"), (8, "in windows of 32 tokens, 8 of them new in each")],
)
@pytest.mark.parametrize("mixes_repeats", [True, False])
def test_the_card_says_how_the_score_was_taken(stride, words, mixes_repeats):
    """By windows or in one pass, and with what this model alone does not do."""
    score = SimpleNamespace(
        val_loss=3.0, val_bpb=1.7, line=9, is_partial=False, targets=7, bytes=20
    )
    log = SimpleNamespace(score=score, run_id="one")
    evidence = model_card.Evidence(
        log=log,
        settings={"train_seq_len": 32, "eval_stride": stride},
        is_packed=True,
        mixes_repeats=mixes_repeats,
    )
    text = " ".join(model_card.score_lines(evidence))
    assert words in text
    assert ("mixes in what a document repeats" in text) == mixes_repeats
