"""yat_d12: gelu_d12 with a YatNMN-Softplus MLP, at three times the rate.

torchrun --standalone --nproc_per_node=8 -m baselines.yat_d12
PRESET=yat_neuron_d12 torchrun ... -m baselines.yat_d12       # a bias for each neuron
"""

from dataclasses import dataclass

from baselines.gelu_d12 import D12_SMOKE, D12Settings, GeluD12
from baselines.models import d12
from engine.trainer import train


@dataclass(frozen=True)
class YatSettings(D12Settings):
    """What the YAT models read beside D12Settings."""

    peak_lr: float = 0.03
    end_lr: float = 0.0015
    mlp: str = "yat"  # one bias for a layer; or "yat_neuron": one for each neuron

    def __post_init__(self):
        super().__post_init__()
        self.require(self.mlp in ("yat", "yat_neuron"), "mlp", "yat or yat_neuron")


class YatD12(GeluD12):
    name = "baselines.yat_d12"
    Settings = YatSettings
    presets = {
        "yat_d12": {},
        "yat_neuron_d12": {"mlp": "yat_neuron", "iterations": 19_922, "lr_decay_steps": 19_922},
        "smoke": D12_SMOKE,
    }
    default = d12.CONFIGS["yat_d12"]
    shape = ("num_kv_heads", "mlp")


RECIPE = YatD12()

if __name__ == "__main__":
    train(RECIPE)
