"""How the models of each recipe look on the hub: names, config.json, weights and code.

`read_model` takes a checkpoint or an artifact of any recipe; its settings then say under "recipe"
which one it is. Of baselines.gpt2_124m:

    settings                                      config.json
    num_layers 12, num_heads 12                   n_layer 12, n_head 12
    train_seq_len 1024                            n_positions 1024
    weight h.0.attn.c_attn.weight (2304, 768)     transformer.h.0.attn.c_attn.weight (768, 2304)
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from baselines import pr334
from engine.open_model import current_settings, find_recipe, read_weights
from engine.recipe import model_settings_of

REMOTE_CODE = Path(__file__).parent / "remote_code"
SHARED_CODE = "shared_gpt.py"

PR334_SETTINGS = frozenset(field.name for field in fields(pr334.Shape))
# Not taken from train_gpt.py: where that moves on, the published code has to follow.
GOLF_SETTINGS = PR334_SETTINGS - {"bigram_vocab_size", "bigram_dim"}


# config.json --------------------------------------------------------------------------------------


def gpt2_config(settings: dict) -> dict:
    return {
        "n_layer": settings["num_layers"],
        "n_head": settings["num_heads"],
        "n_embd": settings["model_dim"],
        "n_positions": settings["train_seq_len"],
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }


def shape_config(settings: dict) -> dict:
    return {
        "max_position_embeddings": settings["train_seq_len"],
        "num_hidden_layers": settings["num_layers"],
        "hidden_size": settings["model_dim"],
        "num_attention_heads": settings["num_heads"],
    }


def preln_config(settings: dict) -> dict:
    return shape_config(settings) | {"dropout": settings["dropout"]}


def rotary_config(settings: dict) -> dict:
    return shape_config(settings) | {
        "num_key_value_heads": settings["num_kv_heads"],
        "rope_theta": settings["rope_base"],
        "final_logit_softcapping": settings["logit_softcap"],
    }


def d12_config(settings: dict) -> dict:
    return rotary_config(settings) | {
        "mlp": settings["mlp"],
        "initializer_range": settings["embed_init_std"],
    }


def golf_config(settings: dict) -> dict:
    return rotary_config(settings) | {
        "intermediate_size": settings["mlp_mult"] * settings["model_dim"],
        "rope_dims": settings["rope_dims"],
    }


def pr334_config(settings: dict) -> dict:
    pairs = {"pair_rows": settings["bigram_vocab_size"], "pair_dim": settings["bigram_dim"]}
    return golf_config(settings) | pairs


# Weights ------------------------------------------------------------------------------------------
# From the names and layout of a checkpoint to those of the hub. A head that is the embedding is not
# stored, and a row that is no token is not published.


def golf_weights(weights: dict[str, Tensor], settings: dict) -> dict[str, Tensor]:
    return {f"model.{name}": weight for name, weight in weights.items()}


def d12_weights(weights: dict[str, Tensor], settings: dict) -> dict[str, Tensor]:
    published = {}
    for name, weight in weights.items():
        if name.startswith(("wte.", "value_embeds.", "lm_head.")):
            weight = weight[: settings["vocab_size"]]
        published[name if name.startswith("lm_head.") else f"model.{name}"] = weight
    return published


def preln_weights(weights: dict[str, Tensor], settings: dict) -> dict[str, Tensor]:
    published = {}
    for name, weight in weights.items():
        published[name if name == "lm_head.weight" else f"transformer.{name}"] = weight
    return published


def gpt2_weights(weights: dict[str, Tensor], settings: dict) -> dict[str, Tensor]:
    published = {}
    for name, weight in weights.items():
        if name.startswith("h.") and weight.ndim == 2:
            weight = weight.T  # transformers keeps GPT-2's matrices as the original did: (in, out)
        if name.startswith("wte."):
            weight = weight[: settings["vocab_size"]]
        published[f"transformer.{name}"] = weight
    return published


# Recipes ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HubModel:
    """How the models of a recipe are published."""

    title: str
    model_type: str
    model_class: str
    config: Callable[[dict], dict]  # what config.json says of the shape
    weights: Callable[[dict, dict], dict]  # under their published names
    # Empty: all classes are transformers' own, and no code is shipped.
    config_class: str = ""
    base_class: str = ""
    more_code: tuple[str, ...] = ()  # files that its own two import, beside SHARED_CODE
    settings: frozenset[str] = frozenset()  # all that its code knows; empty: whatever builds
    begins_documents: bool = False  # its code knows which id does, whatever a tokenizer says
    can_slide: bool = False  # takes inputs that are longer than the context
    dtype: str = "fp32"
    # Where no tokenizer says otherwise; the usual numbers of its field.
    special_ids: tuple[tuple[str, int], ...] = (("bos", 50256), ("eos", 50256), ("pad", 50256))
    license: str = ""  # of the model that is reproduced, where it states one
    notes: tuple[str, ...] = ()  # what its design forbids, and the way around it


LOOKS_BACK = (
    "A token's embedding is mixed with that of the token before it. A server that keeps its own"
    " cache of keys and values (vLLM's transformers backend) does not hand that token over, so"
    " `is_backend_compatible()` is False; `transformers serve` works."
)
YAT_LORA = (
    'LoRA\'s `target_modules="all-linear"` finds no matrix in the YatNMN layer, whose kernel counts'
    " in a product and in a distance. Name it:"
    ' `LoraConfig(target_modules="all-linear", target_parameters=["mlp.c_fc.kernel"])`.'
    " For the same reason torch's dynamic int8 leaves the kernel in its precision."
)
VIRTUAL_TOKENS = (
    "`inputs_embeds` that are rows of the embedding stand for their tokens. Others, as prompt"
    " tuning learns them, are virtual tokens: the tables that are looked up by token lack them."
)
SENTENCEPIECE_IDS = (("bos", 1), ("eos", 2), ("pad", 0))
GELU = HubModel(
    title="nanochat-style GPT with a GELU MLP",
    model_type="gelu_gpt",
    model_class="GeluGPTForCausalLM",
    config=d12_config,
    weights=d12_weights,
    config_class="GeluGPTConfig",
    base_class="GeluGPTModel",
    can_slide=True,
    special_ids=SENTENCEPIECE_IDS,
    license="apache-2.0",
    notes=(LOOKS_BACK, VIRTUAL_TOKENS),
)
YAT = HubModel(
    title="nanochat-style GPT with a YatNMN-Softplus MLP",
    model_type="yatnmn_gpt",
    model_class="YatGPTForCausalLM",
    config=d12_config,
    weights=d12_weights,
    config_class="YatGPTHfConfig",
    base_class="YatGPTModel",
    can_slide=True,
    special_ids=SENTENCEPIECE_IDS,
    license="apache-2.0",
    notes=(LOOKS_BACK, VIRTUAL_TOKENS, YAT_LORA),
)
GPT2 = HubModel(
    title="GPT-2",
    model_type="gpt2",
    model_class="GPT2LMHeadModel",
    config=gpt2_config,
    weights=gpt2_weights,
    dtype="bf16",
    notes=(
        "transformers' GPT-2 sees that a row holds several documents (position_ids that start"
        " again) only without a cache: packed rows need `use_cache=False`, as in training.",
        "Its matrices are `Conv1D`: torch's dynamic int8 converts the head alone.",
    ),
)
PRELN = HubModel(
    title="Pre-LN GPT",
    model_type="nanogpt",
    model_class="NanoGPTLMHeadModel",
    config=preln_config,
    weights=preln_weights,
    config_class="NanoGPTConfig",
    base_class="NanoGPTModel",
    license="mit",
)
GOLF_GPT = HubModel(
    title="Parameter golf GPT",
    model_type="golf_gpt",
    model_class="GolfGPTForCausalLM",
    config=golf_config,
    weights=golf_weights,
    config_class="GolfGPTConfig",
    base_class="GolfGPTModel",
    more_code=("shared_golf_gpt.py",),
    settings=GOLF_SETTINGS,
    begins_documents=True,
    can_slide=True,
    # A document ends where the next begins: the model never saw the tokenizer's end of text.
    special_ids=(("bos", 1), ("eos", 1), ("pad", 0)),
    notes=(LOOKS_BACK,),
)
PR334_GPT = replace(
    GOLF_GPT,
    title="Parameter golf GPT of pull request #334",
    model_type="pr334_gpt",
    model_class="PR334GPTForCausalLM",
    config=pr334_config,
    config_class="PR334GPTConfig",
    base_class="PR334GPTModel",
    more_code=("shared_golf_gpt.py", "configuration_golf_gpt.py"),
    settings=PR334_SETTINGS,
    notes=(LOOKS_BACK, VIRTUAL_TOKENS),
)
HUB_MODELS = {
    "train_gpt": GOLF_GPT,
    "baselines.student": GOLF_GPT,
    "baselines.pr334": PR334_GPT,
    "baselines.gelu_d12": GELU,
    "baselines.yat_d12": YAT,
    "baselines.gpt2_124m": GPT2,
    "baselines.preln_53m": PRELN,
}

# The classes of the second model are those of the first under other names: published models of
# both kinds exist under these, and a model type has one class.
RENAMED = {"gelu_gpt": "yatnmn_gpt", "GeluGPTConfig": "YatGPTHfConfig", "GeluGPT": "YatGPT"}


# Models -------------------------------------------------------------------------------------------


def short_name(settings: dict) -> str:
    """The recipe's name without its folder, as gelu_d12."""
    return settings["recipe"].rpartition(".")[2]


def build_hub_model(settings: dict, device="cpu") -> nn.Module:
    """The model that settings describe, in fp32, its weights not yet set.

    Raises: ValueError for settings that are not the recipe's.
    """
    with torch.device(device):
        return find_recipe(settings["recipe"]).model(model_settings_of(settings), torch.float32)


def load_hub_model(settings: dict, weights: dict[str, Tensor]) -> nn.Module:
    """The model with its weights, on the CPU, in eval mode."""
    model = build_hub_model(settings)
    model.load_state_dict(weights)
    return model.eval()


def read_model(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Weights and settings of a checkpoint or an artifact; the settings name the recipe.

    Raises: ValueError for another kind of file, for settings of no recipe that is published, and
    for weights that are not those that the settings ask for.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the artifact.pgz or checkpoint.pt in it")
    weights, saved = read_weights(path)
    try:
        settings = current_settings(saved)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    recipe = settings["recipe"]
    if recipe not in HUB_MODELS:
        raise ValueError(f"{path} is of {recipe}; published are {', '.join(HUB_MODELS)}")
    known_settings = HUB_MODELS[recipe].settings
    differing = sorted(known_settings ^ set(model_settings_of(settings)))
    if known_settings and differing:
        raise ValueError(
            f"{path} is of another {recipe} than the one whose published code is here: its settings"
            f" differ in {', '.join(differing)}; extend tools/hub/architectures.py"
        )
    needed = {name: w.shape for name, w in build_hub_model(settings, "meta").state_dict().items()}
    unequal = {(name, w.shape) for name, w in weights.items()} ^ set(needed.items())
    if unequal:
        name, shape = min(unequal)
        raise ValueError(f"{path} does not fit its settings: {name} {tuple(shape)}, among others")
    return weights, settings


def published_weights(settings: dict, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under their published names, in their published layout."""
    return HUB_MODELS[settings["recipe"]].weights(weights, settings)


def special_ids(settings: dict, tokenizer_ids: dict[str, int] | None = None) -> dict:
    """What config.json calls the special tokens: the tokenizer's ids, else those usual for it.

    A golf model's begin and end are what its code was trained by, whatever a tokenizer says.
    None for those that a tokenizer lacks, or a smaller vocabulary has no row for.
    """
    ids = dict(HUB_MODELS[settings["recipe"]].special_ids)
    if tokenizer_ids:
        of_tokenizer = {name: tokenizer_ids.get(name) for name in ids}
        if HUB_MODELS[settings["recipe"]].begins_documents:
            of_tokenizer |= {"bos": ids["bos"], "eos": ids["eos"]}
        ids = of_tokenizer
    config = {}
    for name, number in ids.items():
        has_row = number is not None and number < settings["vocab_size"]
        config[f"{name}_token_id"] = number if has_row else None
    return config


def config_json(
    settings: dict, dtype: torch.dtype, tokenizer_ids: dict[str, int] | None = None
) -> dict:
    """config.json: the shape under the names that transformers uses; ids as in special_ids."""
    hub_model = HUB_MODELS[settings["recipe"]]
    config = {
        "architectures": [hub_model.model_class],
        "model_type": hub_model.model_type,
        **special_ids(settings, tokenizer_ids),
        "vocab_size": settings["vocab_size"],
        "use_cache": True,
        "dtype": str(dtype).removeprefix("torch."),
        "tie_word_embeddings": settings.get("tied", True),
    }
    if hub_model.config_class:
        kind = hub_model.model_type
        config["auto_map"] = {
            "AutoConfig": f"configuration_{kind}.{hub_model.config_class}",
            "AutoModel": f"modeling_{kind}.{hub_model.base_class}",
            "AutoModelForCausalLM": f"modeling_{kind}.{hub_model.model_class}",
        }
    return config | hub_model.config(settings)


def code_files(recipe: str) -> dict[str, str]:
    """Text of each file of code that the folder needs, by name."""
    hub_model = HUB_MODELS[recipe]
    if not hub_model.config_class:
        return {}
    kind = GELU.model_type if hub_model is YAT else hub_model.model_type
    shared = (SHARED_CODE, *hub_model.more_code)
    files = {name: (REMOTE_CODE / name).read_text() for name in shared}
    for part in ("configuration", "modeling"):
        text = (REMOTE_CODE / f"{part}_{kind}.py").read_text()
        if hub_model is YAT:
            for own, other in RENAMED.items():
                text = text.replace(own, other)
        files[f"{part}_{hub_model.model_type}.py"] = text
    return files
