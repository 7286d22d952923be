"""What differs between the systems that are published: names, config, weights and code.

`read_model` takes a checkpoint or an artifact of any of them; its settings then say under "system"
which one it is. The golf model, whose own settings name no system, is "golf".
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import quantize
from baselines import train
from baselines.train import GOLF

REMOTE_CODE = Path(__file__).parent / "remote_code"


def gpt2_config(s: dict) -> dict:
    config = {"n_layer": s["num_layers"], "n_head": s["num_heads"], "n_embd": s["model_dim"]}
    config |= {"n_positions": s["seq_len"], "activation_function": "gelu_new"}
    config |= {"layer_norm_epsilon": 1e-5, "attn_pdrop": 0.0}
    return config | {"embd_pdrop": 0.0, "resid_pdrop": 0.0}


def shape_config(s: dict) -> dict:
    return {
        "max_position_embeddings": context(s),
        "num_hidden_layers": s["num_layers"],
        "hidden_size": s["model_dim"],
        "num_attention_heads": s["num_heads"],
    }


def preln_config(s: dict) -> dict:
    return shape_config(s) | {"dropout": s["dropout"]}


def rotary_config(s: dict) -> dict:
    config = shape_config(s) | {"num_key_value_heads": s["num_kv_heads"]}
    return config | {"rope_theta": s["rope_base"], "final_logit_softcapping": s["logit_softcap"]}


def d12_config(s: dict) -> dict:
    return rotary_config(s) | {"mlp": s["mlp"], "initializer_range": s["embed_init_std"]}


def golf_config(s: dict) -> dict:
    config = rotary_config(s) | {"intermediate_size": s["mlp_mult"] * s["model_dim"]}
    return config | {name: s[name] for name in ("rope_dims", "bigram_vocab_size", "bigram_dim")}


def as_it_is(weights: dict[str, Tensor], settings: dict) -> dict[str, Tensor]:
    return {f"model.{name}": w for name, w in weights.items()}


def preln_weights(weights: dict[str, Tensor], settings: dict) -> dict[str, Tensor]:
    return {n if n == "lm_head.weight" else f"transformer.{n}": w for n, w in weights.items()}


def gpt2_weights(weights: dict[str, Tensor], settings: dict) -> dict[str, Tensor]:
    """Matrices (in, out), no row for no token."""
    published = {}
    for name, w in weights.items():
        if name.startswith("h.") and w.ndim == 2:
            w = w.T  # transformers keeps GPT-2's matrices as the original did
        published[f"transformer.{name}"] = w[: settings["vocab_size"]] if "wte" in name else w
    return published


@dataclass(frozen=True)
class Form:
    """How a system is published."""

    title: str
    model_type: str
    model_class: str
    config: Callable[[dict], dict]  # what config.json says of the shape
    weights: Callable[[dict, dict], dict] = as_it_is  # under their published names
    config_class: str = ""  # empty: both classes are transformers' own, and no code is shipped
    code: tuple[str, ...] = ()  # files of tools/hub/remote_code beside configuration and modeling
    has_trunk: bool = True  # the baseline's own file is part of the code, as torch_gpt.py
    can_slide: bool = False  # takes inputs that are longer than the context
    dtype: str = "fp32"
    special_ids: tuple[tuple[str, int], ...] = (("bos", 50256), ("eos", 50256), ("pad", 50256))
    license: str = ""  # of the system that is reproduced, where it states one


SENTENCEPIECE_IDS = (("bos", 1), ("eos", 2))
D12 = dict(
    config=d12_config, code=("token_cache.py",), can_slide=True, special_ids=SENTENCEPIECE_IDS,
    license="apache-2.0",
)  # fmt: skip
GELU = Form(
    "nanochat-style GPT with a GELU MLP", "gelu_gpt", "GeluGPTForCausalLM",
    config_class="GeluGPTConfig", **D12,
)  # fmt: skip
YAT = Form(
    "nanochat-style GPT with a YatNMN-Softplus MLP", "yatnmn_gpt", "YatGPTForCausalLM",
    config_class="YatGPTHfConfig", **D12,
)  # fmt: skip
GPT2 = Form("GPT-2", "gpt2", "GPT2LMHeadModel", gpt2_config, gpt2_weights, dtype="bf16")
PRELN = Form(
    "Pre-LN GPT", "nanogpt", "NanoGPTLMHeadModel", preln_config, preln_weights, "NanoGPTConfig",
    license="mit",
)  # fmt: skip
GOLF_GPT = Form(
    "Parameter golf GPT", "golf_gpt", "GolfGPTForCausalLM", golf_config,
    config_class="GolfGPTConfig", code=("token_cache.py",), has_trunk=False, can_slide=True,
    # A document ends where the next begins: the model never saw the tokenizer's end of text.
    special_ids=(("bos", 1), ("eos", 1), ("pad", 0)),
)  # fmt: skip
FORMS = {
    "gelu_d12": GELU, "yat_d12": YAT, "yat_neuron_d12": YAT, "gpt2_124m": GPT2,
    "preln_53m": PRELN, "preln_53m_untied": PRELN, GOLF: GOLF_GPT,
}  # fmt: skip

# The classes of the second are those of the first under other names.
RENAMED = {"gelu_gpt": "yatnmn_gpt", "GeluGPTConfig": "YatGPTHfConfig", "GeluGPTFor": "YatGPTFor"}


def context(settings: dict) -> int:
    """Tokens of a row in training."""
    return settings["train_seq_len" if settings["system"] == GOLF else "seq_len"]


def build(settings: dict, device="cpu") -> nn.Module:
    """The model that settings describe, in fp32, its weights not yet set; see train.build."""
    return train.build(own_settings(settings), device=device)


def load(settings: dict, weights: dict[str, Tensor]) -> nn.Module:
    """The model with its weights, on the CPU, in eval mode."""
    return train.load(own_settings(settings), weights)


def own_settings(settings: dict) -> dict:
    """As the model's file has them: those of the golf model name no system."""
    is_named = settings["system"] == GOLF
    return {k: v for k, v in settings.items() if k != "system"} if is_named else settings


def read_model(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Weights and settings of a checkpoint or an artifact; the settings name the system.

    Raises: ValueError for a file that is neither, whose settings name no system, or whose weights
    are not those that its settings ask for.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the artifact.pgz or checkpoint.pt in it")
    with path.open("rb") as file:
        is_artifact = file.read(len(quantize.MAGIC)) == quantize.MAGIC
    if is_artifact:
        weights, settings = quantize.decode(path.read_bytes())
    else:
        weights, settings = quantize.load_checkpoint(path)
    if train.is_golf(settings):
        settings = {"system": GOLF, **settings}
    if settings.get("system") not in FORMS:
        raise ValueError(
            f"{path} is of the system {settings.get('system')!r}; published are {', '.join(FORMS)}"
        )
    needed = {name: w.shape for name, w in build(settings, "meta").state_dict().items()}
    if odd := {(n, w.shape) for n, w in weights.items()} ^ set(needed.items()):
        name, shape = min(odd)
        raise ValueError(f"{path} does not fit its settings: {name} {tuple(shape)}, among others")
    return weights, settings


def published_weights(settings: dict, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under their published names, in their published layout."""
    return FORMS[settings["system"]].weights(weights, settings)


def special_ids(settings: dict, marks: dict[str, int] | None = None) -> dict[str, int | None]:
    """What config.json calls the marks: those of the tokenizer, else those usual for the system.

    The golf model's are what its code was trained by, whatever a tokenizer has besides. None for
    those that a tokenizer lacks, or a smaller vocabulary has no row for.
    """
    ids, V = dict(FORMS[settings["system"]].special_ids), settings["vocab_size"]
    if marks and settings["system"] != GOLF:
        ids = {name: marks.get(name, V) for name in ids}
    return {f"{name}_token_id": number if number < V else None for name, number in ids.items()}


def config_json(settings: dict, dtype: torch.dtype, marks: dict[str, int] | None = None) -> dict:
    """config.json: the shape under the names that transformers uses; marks: as in special_ids."""
    form = FORMS[settings["system"]]
    config = {"architectures": [form.model_class], "model_type": form.model_type}
    config |= special_ids(settings, marks)
    config |= {"vocab_size": settings["vocab_size"], "use_cache": True}
    config["dtype"] = str(dtype).removeprefix("torch.")
    config["tie_word_embeddings"] = settings.get("tied", True)
    if form.config_class:
        config["auto_map"] = {
            "AutoConfig": f"configuration_{form.model_type}.{form.config_class}",
            "AutoModelForCausalLM": f"modeling_{form.model_type}.{form.model_class}",
        }
    return config | form.config(settings)


def code_files(system: str) -> dict[str, str]:
    """Text of each file of code that the folder needs, by name."""
    form = FORMS[system]
    if not form.config_class:
        return {}
    source = "gelu_gpt" if form is YAT else form.model_type
    files = {name: (REMOTE_CODE / name).read_text() for name in form.code}
    if form.has_trunk:
        files["torch_gpt.py"] = Path(train.FILES[system].__file__).read_text()
    for kind in ("configuration", "modeling"):
        text = (REMOTE_CODE / f"{kind}_{source}.py").read_text()
        if form is YAT:
            for ours, theirs in RENAMED.items():
                text = text.replace(ours, theirs)
        files[f"{kind}_{form.model_type}.py"] = text
    return files
