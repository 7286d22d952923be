"""What is published of each system: its names, its config and its code; which system a file is."""

import ast
import dataclasses

import pytest
import torch

import quantize
import train_gpt
from baselines import d12, gpt2, preln, train
from tools.hub import architectures

BASELINES = {name: c for module in (d12, gpt2, preln) for name, c in module.CONFIGS.items()}
SETTINGS = {name: train.model_settings(name, config) for name, config in BASELINES.items()}
SETTINGS["golf"] = {
    "system": "golf",
    **train_gpt.model_settings(train_gpt.Hyperparameters()),
}
TINY = dict(
    vocab_size=61, num_layers=2, model_dim=16, num_heads=2, num_kv_heads=1, mlp_mult=2, rope_dims=4,
    bigram_vocab_size=13, bigram_dim=4, train_seq_len=32,
)  # fmt: skip
UNUSED = dict(train_batch_tokens=32, micro_batch_tokens=32, eval_stride=1)


def tiny() -> tuple[dict, dict[str, torch.Tensor]]:
    """Settings and weights of a golf model, as its checkpoint holds them."""
    hp = train_gpt.Hyperparameters(**TINY, **UNUSED)
    model = train_gpt.GPT(hp, torch.float32).init_weights(0)
    return train_gpt.model_settings(hp), model.state_dict()


def test_every_system_is_published():
    """Each baseline and the golf model; nothing else."""
    assert set(architectures.HUB_MODELS) == {*train.FILES, "golf"} == set(SETTINGS)


@pytest.mark.parametrize("system", architectures.HUB_MODELS)
def test_published_code_imports_nothing_of_ours(system):
    """Only PyTorch, transformers, the standard library and its own siblings."""
    files = architectures.code_files(system)
    hub_model = architectures.HUB_MODELS[system]
    kind = hub_model.model_type
    expected = {"shared_gpt.py", f"configuration_{kind}.py", f"modeling_{kind}.py"}
    assert set(files) == (expected if hub_model.config_class else set())
    for text in files.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= {"math", "torch"} | {
                    "torch.nn.functional"
                }
            elif isinstance(node, ast.ImportFrom) and node.level:
                assert f"{node.module}.py" in files
            elif isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] in (
                    "dataclasses",
                    "torch",
                    "transformers",
                    "types",
                )


@pytest.mark.parametrize(
    "system", [name for name in architectures.HUB_MODELS if name != "gpt2_124m"]
)
def test_code_and_config_agree_on_the_names(system):
    """Every class that config.json names is defined where it says, under that model type."""
    files = architectures.code_files(system)
    config = architectures.config_json(SETTINGS[system], torch.float32)
    for where in config["auto_map"].values():
        file, name = where.split(".")
        assert f"class {name}(" in files[f"{file}.py"]
    kind = config["model_type"]
    assert f'model_type = "{kind}"' in files[f"configuration_{kind}.py"]
    assert config["architectures"] == [config["auto_map"]["AutoModelForCausalLM"].split(".")[1]]
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM"}


@pytest.mark.parametrize("V, mark", [(50_257, 50_256), (50_256, None)])
def test_marks_that_the_vocabulary_lacks_are_none(V, mark):
    """Else generation ends, or pads, with an id that no row of the embedding has."""
    config = architectures.config_json({**SETTINGS["gpt2_124m"], "vocab_size": V}, torch.float32)
    assert [config[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [mark] * 3
    assert architectures.special_ids(SETTINGS["golf"]) == {
        "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0,
    }  # fmt: skip


@pytest.mark.parametrize("system, eos", [("gelu_d12", 40), ("preln_53m", 40), ("golf", 1)])
def test_marks_are_those_of_the_tokenizer(system, eos):
    """In another vocabulary the usual ids are text; the golf model's code knows its own."""
    marks = {"bos": 40, "eos": 40, "unk": 40, "pad": 41}
    config = architectures.config_json(SETTINGS[system], torch.float32, marks)
    assert config["bos_token_id"] == config["eos_token_id"] == eos
    assert config["pad_token_id"] == 41


def test_yat_keeps_no_name_of_the_other_system():
    """Its classes are those of gelu_d12 under names of its own."""
    files = architectures.code_files("yat_d12")
    assert not any("GeluGPT" in text or "gelu_gpt" in text for text in files.values())


def test_the_defaults_of_the_published_golf_config_are_the_recipe():
    """A config without arguments is that of the default settings, initial values included."""
    pytest.importorskip("transformers", reason="python3 golf.py --with hf test")
    from tools.hub.remote_code.configuration_golf_gpt import GolfGPTConfig

    config, hp = GolfGPTConfig(), train_gpt.Hyperparameters()
    written = architectures.config_json(SETTINGS["golf"], torch.float32)
    shape = {n: v for n, v in written.items() if n not in ("architectures", "auto_map", "dtype")}
    assert {name: getattr(config, name) for name in shape} == shape
    initial = config.initializer_range, config.qk_gain_init
    assert initial == (hp.tied_embed_init_std, hp.qk_gain_init)
    with pytest.raises(ValueError, match="bos_token_id=None must be the id that begins documents"):
        GolfGPTConfig(bos_token_id=None)


def test_documents_of_the_golf_model_begin_as_in_training():
    """The id that begins a document is the one that training and scoring know."""
    import evaluate

    special = dict(architectures.HUB_MODELS["golf"].special_ids)
    assert special["bos"] == special["eos"] == evaluate.BOS_ID != special["pad"]


def test_a_golf_model_is_known_by_its_settings(tmp_path):
    """From checkpoint and artifact alike: the exported weights, or those that are scored."""
    settings, weights = tiny()
    average = {name: w + 1 for name, w in weights.items()}
    checkpoint = {"model": weights, "averages": {"ema": average}, "exported": "ema"}
    torch.save({**checkpoint, "model_settings": settings}, tmp_path / "checkpoint.pt")
    blob = quantize.encode(weights, (quantize.PlanRow("*", 16),), settings)
    (tmp_path / "artifact.pgz").write_bytes(blob)
    for name, expected in [("checkpoint.pt", average), ("artifact.pgz", quantize.decode(blob)[0])]:
        found, told = architectures.read_model(tmp_path / name)
        assert told == {"system": "golf", **settings}
        assert all(torch.equal(found[key], w) for key, w in expected.items())
        model = architectures.load(told, found)
        assert not model.training and dataclasses.asdict(model.hp).items() >= settings.items()


@pytest.mark.parametrize("change", ["shape", "missing", "left over"])
def test_weights_that_do_not_fit_their_settings_are_refused(tmp_path, change):
    """One line names the file and a tensor; nothing is written of it."""
    settings, weights = tiny()
    weights = dict(weights)
    if change == "shape":
        weights["tok_emb.weight"] = weights["tok_emb.weight"][:-1]
    elif change == "missing":
        del weights["tok_emb.weight"]
    else:
        weights["tok_emb.weight2"] = weights["tok_emb.weight"]
    torch.save({"model": weights, "model_settings": settings}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a.pt does not fit its settings: tok_emb.weight"):
        architectures.read_model(tmp_path / "a.pt")


def test_settings_of_no_system_are_refused(tmp_path):
    """One setting more than the golf model has, and it is not taken for one."""
    settings, weights = tiny()
    torch.save({"model": weights, "model_settings": {**settings, "x": 1}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="of the system None; published are gelu_d12"):
        architectures.read_model(tmp_path / "a.pt")
