"""Do our recipe's rates carry over from one width to another? A coordinate check of ten steps.

    PRESET=mini python3 golf.py tools.runs.coordinates --widths 64,128,256,512

Models that differ in width alone take ten steps on made-up text, at the recipe's rates. Printed for
each width are root-mean-squares: of the stream where it parts into lanes and of the logits, before
the first step and after the last; and by how much the last step moved the logits, with all it
changed and with what it changed of each group alone. The last row is the factor from one width to
its double. Near 1 a group's rate means the same at every width; near 2 it should be divided by the
width, near 1.4 by its root.

    width   stream   logits   moved by all   matrix   embedding   scalar
"""

import argparse
import dataclasses
import itertools
import math
import sys

import torch
from torch import Tensor

import golf
from engine.ranks import Ranks
from engine.settings import read_settings
from train_gpt import GPT, RECIPE, Optimizers, Settings

STEPS = 10
ROWS = 4  # of a batch
COLUMNS = ("stream before", "stream", "logits", "moved", "matrix", "embedding", "scalar")


def of_width(settings: Settings, width: int) -> Settings:
    """The same model with more or fewer heads of one size. Raises: ValueError for a part of one."""
    heads = width // settings.head_dim
    if width % settings.head_dim:
        raise ValueError(f"width {width} must be a multiple of the head's {settings.head_dim}")
    shared = settings.num_heads // settings.num_kv_heads
    key_heads = heads // shared if heads % shared == 0 else heads
    changes = dict(model_dim=width, num_heads=heads, num_kv_heads=key_heads, compile=False)
    return dataclasses.replace(settings, **changes)


def made_up(settings: Settings, rng: torch.Generator) -> Tensor:
    """tokens_BT that are as unequally frequent as words."""
    share_V = 1 / torch.arange(2, settings.vocab_size + 2)
    count = ROWS * (settings.train_seq_len + 1)
    return share_V.multinomial(count, replacement=True, generator=rng).view(ROWS, -1)


def rms(x: Tensor) -> float:
    return x.float().square().mean().sqrt().item()


def coordinates(settings: Settings, steps: int = STEPS) -> dict[str, float]:
    """Root-mean-squares by the names of COLUMNS."""
    rng = torch.Generator().manual_seed(settings.seed)
    model = GPT(settings, torch.float32)
    RECIPE.init_weights(model, settings)
    optimizers = Optimizers(model, settings, Ranks())
    probe_BT = made_up(settings, rng)
    streams = []
    last_block = model.blocks[settings.lanes_from - 1]  # the last with one stream
    hook = last_block.register_forward_hook(lambda *call: streams.append(rms(call[-1])))

    @torch.no_grad()
    def logits() -> Tensor:
        return model(probe_BT)

    logits()
    measured = {"stream before": streams[-1]}
    for step in range(steps):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        loss = model.loss(made_up(settings, rng)) / (ROWS * settings.train_seq_len)
        loss.backward()
        optimizers.step(step, progress=0.0)  # at the peak of the rate
    after = {name: p.detach().clone() for name, p in model.named_parameters()}
    last = logits()
    measured |= {"stream": streams[-1], "logits": rms(last)}
    model.load_state_dict(before)
    reference = logits()
    measured["moved"] = rms(last - reference)
    for group, params in model.param_groups().items():
        model.load_state_dict(before)
        changed = {id(p) for p in params}
        with torch.no_grad():
            for name, p in model.named_parameters():
                if id(p) in changed:
                    p.copy_(after[name])
        measured[group] = rms(logits() - reference)
    hook.remove()
    return measured


def factors(widths: list[int], table: list[dict[str, float]]) -> dict[str, float]:
    """How many times each column grows from a width to its double, over the whole table."""
    doublings = math.log2(widths[-1] / widths[0])
    return {name: (table[-1][name] / table[0][name]) ** (1 / doublings) for name in COLUMNS}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="coordinates", description=__doc__.splitlines()[0])
    parser.add_argument("--widths", default="64,128,256,512", help="from small to large")
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args(argv)
    try:
        settings = read_settings(RECIPE, golf.own_environment(), False).settings
        widths = [int(word) for word in args.widths.split(",")]
        if len(widths) < 2 or any(a >= b for a, b in itertools.pairwise(widths)):
            raise ValueError(f"--widths {args.widths} must be two or more, from small to large")
        shapes = [of_width(settings, width) for width in widths]
    except ValueError as error:
        print(f"coordinates: {error}", file=sys.stderr)
        return 2
    print("width   " + "".join(f"{name:>14}" for name in COLUMNS))
    table = []
    for width, shape in zip(widths, shapes, strict=True):
        table.append(coordinates(shape, args.steps))
        print(f"{width:<8}" + "".join(f"{table[-1][name]:14.4f}" for name in COLUMNS), flush=True)
    growth = factors(widths, table)
    print("doubled " + "".join(f"{growth[name]:14.2f}" for name in COLUMNS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
