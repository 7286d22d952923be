"""What is published of each system: its names, its config and its code; which system a file is."""

import ast
import contextlib
import dataclasses
import sys
from pathlib import Path

import pytest
import torch

import quantize
import train_gpt
from baselines import pr334
from baselines.models import d12, gpt2, preln
from engine.open_model import find_recipe
from tools.hub import architectures


def settings_of(recipe: str, config) -> dict:
    """As a checkpoint holds them, of a model's Config or of the golf model's settings."""
    fields = dataclasses.asdict(config)
    if recipe in ("train_gpt", "baselines.pr334"):
        return {"recipe": recipe, **find_recipe(recipe).model_settings(config)}
    return {"recipe": recipe, "train_seq_len": fields.pop("seq_len"), **fields}


SETTINGS = {
    "gelu_d12": settings_of("baselines.gelu_d12", d12.CONFIGS["gelu_d12"]),
    "yat_d12": settings_of("baselines.yat_d12", d12.CONFIGS["yat_d12"]),
    "yat_neuron_d12": settings_of("baselines.yat_d12", d12.CONFIGS["yat_neuron_d12"]),
    "gpt2_124m": settings_of("baselines.gpt2_124m", gpt2.CONFIGS["gpt2_124m"]),
    "preln_53m": settings_of("baselines.preln_53m", preln.CONFIGS["preln_53m"]),
    "preln_53m_untied": settings_of("baselines.preln_53m", preln.CONFIGS["preln_53m_untied"]),
    "golf": settings_of("train_gpt", train_gpt.Settings()),
    "pr334": settings_of("baselines.pr334", pr334.Settings()),
}

# Small models of every kind, with settings that are not the defaults.
SHAPE = dict(vocab_size=61, num_layers=4, model_dim=48, num_heads=4)
ODD = dict(rope_base=5000.0, logit_softcap=12.0, embed_init_std=0.03)
GELU = d12.Config(**SHAPE, **ODD, seq_len=256, num_kv_heads=2)
# Five layers: one without a partner in the other half.
OF_BOTH_GOLFS = {
    **SHAPE,
    "num_layers": 5,
    "num_kv_heads": 2,
    "mlp_mult": 2,
    "rope_dims": 6,
    "rope_base": 5000.0,
    "logit_softcap": 12.0,
    "train_seq_len": 128,
}
SMALL = {
    "gelu_d12": settings_of("baselines.gelu_d12", GELU),
    "yat_d12": settings_of("baselines.yat_d12", dataclasses.replace(GELU, mlp="yat")),
    "gpt2_124m": settings_of("baselines.gpt2_124m", gpt2.Config(**SHAPE, seq_len=64)),
    "preln_53m": settings_of("baselines.preln_53m", preln.Config(**SHAPE, seq_len=64)),
    "preln_53m_untied": settings_of(
        "baselines.preln_53m", preln.Config(**SHAPE, seq_len=64, tied=False)
    ),
    "golf": {"recipe": "train_gpt", **OF_BOTH_GOLFS},
    "pr334": {
        "recipe": "baselines.pr334",
        **OF_BOTH_GOLFS,
        "bigram_vocab_size": 97,
        "bigram_dim": 8,
    },
}
TINY_SHAPE = {"num_layers": 2, "model_dim": 16, "num_heads": 2, "num_kv_heads": 1, "rope_dims": 4}
TINY = {**SMALL["golf"], **TINY_SHAPE}


def checkpoint(folder: Path, name: str, settings: dict | None = None, spread=0.15) -> Path:
    """A checkpoint of a small model in which every path shows."""
    settings = settings or SMALL[name]
    model = architectures.build_hub_model(settings).init_weights(0)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=rng) * spread)
    path = folder / f"{name}.pt"
    torch.save({"model": model.state_dict(), "model_settings": settings}, path)
    return path


def forget_modules() -> None:
    """Code of published folders is loaded anew, from where it then lies."""
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


@contextlib.contextmanager
def own_modules(folder: Path):
    """transformers copies published code to this folder, and forgets it afterwards."""
    from transformers import dynamic_module_utils

    forget_modules()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(folder))
        patch.setattr(sys, "path", [*sys.path])
        yield
    forget_modules()


def tiny() -> tuple[dict, dict[str, torch.Tensor]]:
    """Settings and weights of a golf model, as its checkpoint holds them."""
    return TINY, architectures.build_hub_model(TINY).init_weights(0).state_dict()


def test_every_recipe_with_a_model_of_ours_is_published():
    """Each recipe file; nothing else. A peer to be measured against has no published form."""
    root = Path(train_gpt.__file__).parent
    files = [path for path in root.glob("baselines/*.py") if "\nRECIPE = " in path.read_text()]
    recipes = {f"baselines.{path.stem}" for path in files} | {"train_gpt"}
    assert set(architectures.HUB_MODELS) == recipes - {"baselines.field_stack"}


@pytest.mark.parametrize("recipe", architectures.HUB_MODELS)
def test_published_code_imports_nothing_of_ours(recipe):
    """Only PyTorch, transformers, the standard library and its own siblings."""
    files = architectures.code_files(recipe)
    hub_model = architectures.HUB_MODELS[recipe]
    kind = hub_model.model_type
    expected = {"shared_gpt.py", f"configuration_{kind}.py", f"modeling_{kind}.py"}
    expected |= set(hub_model.more_code)
    assert set(files) == (expected if hub_model.config_class else set())
    own = {f"configuration_{kind}.py", f"modeling_{kind}.py"} & set(files)
    imported = set()
    for text in files.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= {"math", "torch"} | {
                    "torch.nn.functional"
                }
            elif isinstance(node, ast.ImportFrom) and node.level:
                imported.add(f"{node.module}.py")
            elif isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] in (
                    "dataclasses",
                    "torch",
                    "transformers",
                    "types",
                )
    # None is missing, and none comes along for nothing.
    assert imported | own == set(files)


@pytest.mark.parametrize("system", [name for name in SETTINGS if name != "gpt2_124m"])
def test_code_and_config_agree_on_the_names(system):
    """Every class that config.json names is defined where it says, under that model type."""
    files = architectures.code_files(SETTINGS[system]["recipe"])
    config = architectures.config_json(SETTINGS[system], torch.float32)
    for reference in config["auto_map"].values():
        file, name = reference.split(".")
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
    files = architectures.code_files("baselines.yat_d12")
    assert not any("GeluGPT" in text or "gelu_gpt" in text for text in files.values())


@pytest.mark.parametrize("system", ["golf", "pr334"])
def test_the_defaults_of_a_published_golf_config_are_the_recipe(system):
    """A config without arguments is that of the default settings, initial values included."""
    pytest.importorskip("transformers", reason="python3 golf.py --with hf test")
    from tools.hub.remote_code.configuration_golf_gpt import GolfGPTConfig
    from tools.hub.remote_code.configuration_pr334_gpt import PR334GPTConfig

    config_class = {"golf": GolfGPTConfig, "pr334": PR334GPTConfig}[system]
    config = config_class()
    settings = find_recipe(SETTINGS[system]["recipe"]).Settings()
    written = architectures.config_json(SETTINGS[system], torch.float32)
    shape = {n: v for n, v in written.items() if n not in ("architectures", "auto_map", "dtype")}
    assert {name: getattr(config, name) for name in shape} == shape
    initial = config.initializer_range, config.qk_gain_init
    assert initial == (settings.tied_embed_init_std, settings.qk_gain_init)
    with pytest.raises(ValueError, match="bos_token_id=None must be the id that begins documents"):
        config_class(bos_token_id=None)


def test_documents_of_the_golf_model_begin_as_in_training():
    """The id that begins a document is the one that training and scoring know."""
    import evaluate

    special = dict(architectures.GOLF_GPT.special_ids)
    assert special["bos"] == special["eos"] == evaluate.BOS_ID != special["pad"]


def test_a_model_is_known_by_its_settings(tmp_path):
    """From checkpoint and artifact alike: the exported weights, or those that are scored."""
    settings, weights = tiny()
    average = {name: w + 1 for name, w in weights.items()}
    checkpoint = {"model": weights, "averages": {"ema": average}, "exported": "ema"}
    torch.save({**checkpoint, "model_settings": settings}, tmp_path / "checkpoint.pt")
    blob = quantize.encode(weights, (quantize.PlanRow("*", 16),), settings)
    (tmp_path / "artifact.pgz").write_bytes(blob)
    for name, expected in [("checkpoint.pt", average), ("artifact.pgz", quantize.decode(blob)[0])]:
        read, read_settings = architectures.read_model(tmp_path / name)
        assert read_settings == settings
        assert all(torch.equal(read[key], w) for key, w in expected.items())
        model = architectures.load_hub_model(read_settings, read)
        assert not model.training and model.tok_emb.weight.shape == (61, 16)


def test_weights_of_repeats_are_not_the_model(tmp_path):
    """They are of the score alone; a file with them is published as one without."""
    settings, weights = tiny()
    saved = settings | {"repeat_weights": [0.1] * 8}
    torch.save({"model": weights, "exported": "raw", "model_settings": saved}, tmp_path / "a.pt")
    read, _ = architectures.read_model(tmp_path / "a.pt")
    assert set(read) == set(weights)


def test_older_files_are_read(tmp_path):
    """Those whose settings name a system and call the context otherwise, or name nothing."""
    settings = SMALL["pr334"] | TINY_SHAPE
    weights = architectures.build_hub_model(settings).init_weights(0).state_dict()
    older = {name: value for name, value in settings.items() if name != "recipe"}
    for named in ({}, {"recipe": "train_gpt"}, {"recipe": "baselines.student"}):
        saved = {"model": weights, "model_settings": older | named}
        torch.save(saved, tmp_path / "golf.pt")
        assert architectures.read_model(tmp_path / "golf.pt")[1] == settings
    path = checkpoint(tmp_path, "preln_53m")
    saved = torch.load(path)
    older = dict(saved["model_settings"], system="preln_53m")
    older["seq_len"] = older.pop("train_seq_len")
    del older["recipe"]
    torch.save({**saved, "model_settings": older}, path)
    assert architectures.read_model(path)[1] == SMALL["preln_53m"]


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


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"recipe": "baselines.bert"}, "is of baselines.bert; published are train_gpt"),
        ({"experts": 3}, "is of another train_gpt than .* differ in experts; extend"),
    ],
)
def test_settings_without_a_published_form_are_refused(tmp_path, changes, message):
    """Of no recipe here, or of one that has moved on from the model that has code."""
    settings, weights = tiny()
    torch.save({"model": weights, "model_settings": settings | changes}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message):
        architectures.read_model(tmp_path / "a.pt")
