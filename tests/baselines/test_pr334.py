"""pr334 is frozen: its size, its first twenty losses and its artifact's bytes.

The golden values below were made by this file's own recipe, once. They are printed by

    python -m tests.baselines.test_pr334

and change only if the recipe does, which it must not.
"""

import hashlib
import zlib

import pytest
import torch
import torch.nn.functional as F

import quantize
from baselines import pr334
from codec import container
from engine.open_model import open_model
from engine.ranks import Ranks
from engine.recipe import Budget
from engine.settings import read_settings
from tests.tiny_runs import run_small

RECIPE = pr334.RECIPE
GOLDEN_LOSSES = [
    6.930564,
    6.810344,
    4.663898,
    4.557131,
    4.617554,
    4.506102,
    4.456611,
    4.323565,
    4.257395,
    4.01106,
    3.928473,
    3.821095,
    3.679393,
    3.621257,
    3.435661,
    3.447269,
    3.214114,
    3.16766,
    2.983606,
    2.961998,
]
GOLDEN_BYTES = 256428  # by the zstd of that day; another version may differ a little
GOLDEN_WEIGHTS = "ca93c792d700e6784e8a2ecae0d0fadf9291cc2b12742a11e9db6110040f82b6"
# Of the artifact whose streams zstd leaves as they are.
GOLDEN_SHA256 = "08259c50602c9944ede31946d236bf5babfb6525d4a996a08b53c34211425db0"


def smoke_settings(**changes) -> pr334.Settings:
    return pr334.Settings(**{**pr334.PRESETS["smoke"], "compile": False, **changes})


def made_up_tokens(step: int, settings: pr334.Settings) -> torch.Tensor:
    """A batch by integers alone: the same on every machine."""
    T = settings.train_seq_len + 1
    rows = settings.train_batch_tokens // settings.train_seq_len
    place = torch.arange(rows * T) + 7919 * step
    tokens = (place * place // 3 + 13 * place) % 97 + place % 5
    tokens[place % 61 == 0] = 1  # documents begin inside rows
    return tokens.view(rows, T)


def first_losses(steps: int) -> list[float]:
    """Nats a token of the smoke preset's first steps, in fp32, on a quarter of its batch."""
    settings = smoke_settings(train_batch_tokens=512, micro_batch_tokens=512)
    model = RECIPE.model(RECIPE.model_settings(settings), torch.float32)
    RECIPE.init_weights(model, settings)
    loss_fn = RECIPE.training_loss(model, settings)
    optimizer = RECIPE.optimizer(model, settings, Ranks())
    losses = []
    for step in range(steps):
        loss = loss_fn(made_up_tokens(step, settings), None) / settings.train_batch_tokens
        loss.backward()
        optimizer.step(step, progress=step / steps)
        losses.append(loss.item())
    return losses


def made_up_weights(settings: pr334.Settings) -> dict[str, torch.Tensor]:
    """Weights of small integers over 1024.

    The sum of a row's squares is exact in fp32, so every machine rounds the row alike.
    """
    with torch.device("meta"):
        model = RECIPE.model(RECIPE.model_settings(settings), torch.float32)
    weights = {}
    for name, p in model.named_parameters():
        place = torch.arange(p.numel()) + zlib.crc32(name.encode()) % 9973
        # The sum of three remainders is bell-shaped enough to be a weight.
        total = place * 7 % 61 + place * place % 67 + place * 31 % 71
        weights[name] = ((total - 98) / 1024).view(p.shape)
    return weights


def made_up_artifact() -> bytes:
    settings = smoke_settings()
    model_settings = {"recipe": RECIPE.name, **RECIPE.model_settings(settings)}
    weights = made_up_weights(settings)
    return RECIPE.pack(weights, model_settings, Budget(quantize.CAP_BYTES), None)


def stored_zstd():
    """A stand-in for zstd that leaves data as it is, so that bytes do not hang on its version."""
    return (lambda data, level: data), (lambda data, expected: data), ValueError


def digest_of_weights(blob: bytes) -> str:
    """sha256 of all decoded weights: what the bytes mean, whatever compressed them."""
    weights, _ = quantize.decode(blob)
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].numpy().tobytes())
    return digest.hexdigest()


def test_the_size_is_that_of_the_pull_request():
    """26,666,073 parameters in 11 layers of width 512."""
    model_settings = RECIPE.model_settings(pr334.Settings())
    with torch.device("meta"):
        model = RECIPE.model(model_settings, torch.float32)
    assert sum(p.numel() for p in model.parameters()) == 26_666_073
    assert (len(model.blocks), model.tok_emb.embedding_dim) == (11, 512)


def test_the_first_losses_are_golden():
    """Twenty steps of the smoke preset. Processors differ in the last bits, and steps add up."""
    losses = first_losses(20)
    assert losses == pytest.approx(GOLDEN_LOSSES, rel=2e-3)
    assert losses[:3] == pytest.approx(GOLDEN_LOSSES[:3], rel=1e-5)


def test_the_artifacts_bytes_are_golden(monkeypatch):
    """All bytes but zstd's own."""
    monkeypatch.setattr(container, "load_zstd", stored_zstd)
    assert hashlib.sha256(made_up_artifact()).hexdigest() == GOLDEN_SHA256


def test_the_artifacts_weights_are_golden():
    """What is packed decodes to the same weights and takes as many bytes."""
    blob = made_up_artifact()
    assert digest_of_weights(blob) == GOLDEN_WEIGHTS
    assert len(blob) == pytest.approx(GOLDEN_BYTES, rel=0.005)
    weights, saved = quantize.decode(blob)
    assert saved["recipe"] == "baselines.pr334"
    for name, original in made_up_weights(smoke_settings()).items():
        assert (weights[name] - original).abs().max() < 0.02, name


def test_what_does_not_fit_is_packed_more_coarsely():
    """Under a lower cap the artifact keeps it."""
    settings = smoke_settings()
    weights = made_up_weights(settings)
    model_settings = RECIPE.model_settings(settings)
    most_bytes = int(0.9 * GOLDEN_BYTES)
    blob = RECIPE.pack(weights, model_settings, Budget(most_bytes), None)
    assert len(blob) <= most_bytes


def test_both_presets_are_those_of_the_recipe():
    """pr334 has no changes; without CUDA it is smoke."""
    assert read_settings(RECIPE, {}, True).preset == "pr334"
    assert read_settings(RECIPE, {}, True).settings == pr334.Settings()
    assert read_settings(RECIPE, {}, False).preset == "smoke"


def test_settings_of_another_shape_are_refused():
    """By name."""
    model_settings = RECIPE.model_settings(smoke_settings())
    with pytest.raises(ValueError, match=r"settings \['width'\] do not match those of baselines"):
        RECIPE.model({**model_settings, "width": 3}, torch.float32)


@pytest.mark.parametrize(
    "name, value, requirement",
    [
        ("model_dim", 65, "a multiple of NUM_HEADS=4"),
        ("num_kv_heads", 3, "a divisor of NUM_HEADS=4"),
        ("rope_dims", 3, "even and between 2 and MODEL_DIM/NUM_HEADS=16"),
        ("warmdown_frac", 1.5, "between 0 and 1"),
        ("bigram_vocab_size", 1, "at least 2"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(name, value, requirement):
    """By variable, value and requirement."""
    with pytest.raises(ValueError, match=f"{name.upper()}={value} must be {requirement}"):
        smoke_settings(**{name: value})


def test_newton_schulz_approaches_the_polar_factor():
    """Singular values end near one and the directions are those of the SVD."""
    G = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    X = pr334.newton_schulz(G)
    U, S, Vh = torch.linalg.svd(X, full_matrices=False)
    assert S.max() < 1.25 and S.min() > 0.6
    polar = torch.linalg.svd(G, full_matrices=False)
    exact = polar.U @ polar.Vh
    assert F.cosine_similarity(X.flatten(1), exact.flatten(1)).min() > 0.97


def test_muon_agrees_with_torch():
    """Five steps of ours and of torch.optim.Muon (always bf16) end within 2 % of the movement."""
    rng = torch.Generator().manual_seed(0)
    shapes = [(24, 40), (40, 24), (24, 24), (24, 40)]
    ours = [torch.nn.Parameter(torch.randn(s, generator=rng)) for s in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    start = [p.detach().clone() for p in ours]
    muon = pr334.PlainMuon(ours, Ranks())
    muon.param_groups[0].update(lr=0.02, momentum=0.95, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=0.02, momentum=0.95, weight_decay=0.1)
    for _ in range(5):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=rng)
            q.grad = p.grad.clone()
        muon.step()
        reference.step()
    for p, q, s in zip(ours, theirs, start, strict=True):
        assert (p - q).norm() < 0.02 * (q - s).norm()


def test_every_parameter_learns():
    """The fault of the pull request was a bigram table and its projection both at zero."""
    settings = smoke_settings()
    model = RECIPE.model(RECIPE.model_settings(settings), torch.float32)
    RECIPE.init_weights(model, settings)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = RECIPE.optimizer(model, settings, Ranks())
    for step in range(3):
        (model.loss(made_up_tokens(step, settings)) / 2048).backward()
        optimizer.step(step, progress=0.5)
    for name, p in model.named_parameters():
        assert not torch.equal(p, before[name]), name


def test_nothing_is_mixed_across_a_document_start():
    """Smear and bigram see no earlier document: the first embedding after BOS is its own."""
    settings = smoke_settings()
    model = RECIPE.model(RECIPE.model_settings(settings), torch.float32)
    RECIPE.init_weights(model, settings)
    embedded = []
    model.smear.register_forward_hook(lambda module, inputs, x_BTD: embedded.append(x_BTD))
    with torch.no_grad():
        model.smear.gate.fill_(0.5)
        model.bigram.table.weight.normal_(generator=torch.Generator().manual_seed(0))
        for first in (5, 6):
            model(torch.tensor([[first, 1, 9, 9]]))
    same = (embedded[0] == embedded[1]).all(-1)[0].tolist()
    assert same == [False, True, True, True]


def test_averages_are_saved_and_restored():
    """EMA, SWA and how many weights the mean holds."""
    settings = smoke_settings(num_layers=2)
    model = RECIPE.model(RECIPE.model_settings(settings), torch.float32)
    RECIPE.init_weights(model, settings)
    averages = RECIPE.averages(model, settings)
    assert set(averages.candidates()) == {"raw", "ema"}
    for step, progress in ((1, 0.5), (2, 0.7), (3, 0.9)):
        with torch.no_grad():
            model.smear.gate.fill_(float(step))
        averages.update(step, progress)
    swa = averages.candidates()["swa"]
    assert averages.swa_count == 2 and torch.allclose(swa["smear.gate"], torch.tensor(2.5))
    other = RECIPE.averages(model, settings)
    other.load_state_dict(averages.state_dict())
    assert other.swa_count == 2
    assert torch.equal(other.ema["smear.gate"], averages.ema["smear.gate"])
    assert torch.equal(other.swa["smear.gate"], swa["smear.gate"])


def test_the_file_trains_packs_and_scores(toy, tmp_path, monkeypatch, capsys):
    """`python -m baselines.pr334` ends with a score from the packed bytes, under the cap."""
    changes = dict(preset="smoke", max_wallclock_seconds=0, rope_dims=8)
    folder = run_small(RECIPE, toy, tmp_path, monkeypatch, **changes)
    printed = capsys.readouterr().out
    assert "final val_loss:" in printed and "cap_bytes:16000000" in printed
    assert (folder / "baselines/pr334.py").exists() and (folder / "train_gpt.py").exists()
    assert open_model(folder).recipe is RECIPE


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("GOLDEN_LOSSES =", [round(loss, 6) for loss in first_losses(20)])
    artifact = made_up_artifact()
    print("GOLDEN_BYTES =", len(artifact))
    print("GOLDEN_WEIGHTS =", repr(digest_of_weights(artifact)))
    container.load_zstd = stored_zstd
    print("GOLDEN_SHA256 =", repr(hashlib.sha256(made_up_artifact()).hexdigest()))
