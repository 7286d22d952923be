"""Which shape of our model suits a device and a time: the rule that the presets' sizes follow.

    PRESET=h100_10min python3 golf.py tools.runs.sizes --device H100
    PRESET=record python3 golf.py tools.runs.sizes --device H100 --gpus 8

Time and peak make a number of FLOPs; a shape makes them tokens; the cap makes bits a parameter. The
rule adds up what a small model, little text and coarse bits each cost, in nats a token:

    406.4 / products^0.34  +  410.7 / tokens^0.28  +  packing_nats(bits, tokens a parameter)

products: weights that a token is multiplied with. The first two terms are those of Hoffmann et al.
(arXiv 2203.15556), of other text and larger models; the third is measured on ours (forecast.py).
Tables count for bits alone here, though they make a model better, and so does the depth of equal
products. So it is a rule for the choice between neighbours, and shapes within 0.03 count as equal.
"""

import argparse
import dataclasses
import itertools
import sys

import golf
from engine.settings import read_settings
from tools.runs.forecast import forecast_for_device
from train_gpt import RECIPE, Settings

LAYERS = (6, 7, 8, 9, 10, 11, 12)
WIDTHS = (512, 640)
MLPS = (3, 4)


def foreseen(settings: Settings, device: str, gpus: int) -> dict:
    """The forecast of a shape, with the rule's `nats`."""
    result = forecast_for_device(RECIPE, settings, device, gpus)
    of_size = 406.4 / result["products"] ** 0.34
    of_text = 410.7 / result["tokens"] ** 0.28
    return result | {"nats": of_size + of_text + result["packing_nats"]}


def neighbours(settings: Settings) -> list[Settings]:
    """Shapes like this one, in heads of the same size."""
    shapes = []
    for layers, width, mlp in itertools.product(LAYERS, WIDTHS, MLPS):
        heads = width // settings.head_dim
        changes = dict(num_layers=layers, model_dim=width, mlp_mult=mlp)
        changes |= dict(num_heads=heads, num_kv_heads=heads // 2)
        shapes.append(dataclasses.replace(settings, **changes))
    return shapes


def row(settings: Settings, result: dict) -> str:
    """One line of the table."""
    shape = f"{settings.num_layers:2} x {settings.model_dim}, MLP {settings.mlp_mult}"
    size = f"{result['products'] / 1e6:5.1f} M products {result['parameters'] / 1e6:5.1f} M in all"
    text = f"{result['tokens'] / 1e9:5.2f} G tokens {result['tokens_per_parameter']:5.1f} each"
    bits = f"{result['bits']:.2f} bits {result['packing_nats']:.3f} lost"
    return f"{result['nats']:.3f}  {shape}  {size}  {text}  {bits}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sizes", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="H100", help="as it is called in engine/trainer.py")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--rows", type=int, default=10, help="of the table")
    args = parser.parse_args(argv)
    try:
        settings = read_settings(RECIPE, golf.own_environment(), True).settings
        own = foreseen(settings, args.device, args.gpus)
    except ValueError as error:
        print(f"sizes: {error}", file=sys.stderr)
        return 2
    results = [(shape, foreseen(shape, args.device, args.gpus)) for shape in neighbours(settings)]
    results.sort(key=lambda result: result[1]["nats"])
    for shape, result in results[: args.rows]:
        print(row(shape, result))
    print("as set:")
    print(row(settings, own))
    return 0


if __name__ == "__main__":
    sys.exit(main())
