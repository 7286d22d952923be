"""Weights files: the bytes of the specification, and those of the package that defined them."""

import json
from pathlib import Path

import pytest
import torch

from tests.tools.hub.test_architectures import SETTINGS
from tools.hub.architectures import HUB_MODELS, build_hub_model, published_weights
from tools.hub.proof import DTYPES
from tools.hub.weights_file import safetensors_bytes, safetensors_header


def read_safetensors(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Header and tensors, read from the format's description alone."""
    blob = path.read_bytes()
    length = int.from_bytes(blob[:8], "little")
    header, data = json.loads(blob[8 : 8 + length]), bytearray(blob[8 + length :])
    kinds = {"F32": torch.float32, "BF16": torch.bfloat16}
    tensors, end = {}, 0
    for name, entry in header.items():
        if name != "__metadata__":
            begin, after = entry["data_offsets"]
            assert begin == end, "a gap"
            flat = torch.frombuffer(data[begin:after], dtype=kinds[entry["dtype"]])
            tensors[name], end = flat.view(entry["shape"]), after
    assert end == len(data) and length % 8 == 0
    return header, tensors


@pytest.mark.parametrize(
    "system, dtype, size, tensors",
    [
        ("gpt2_124m", "bf16", 248_894_656, 148),
        ("gelu_d12", "fp32", 1_044_394_688, 90),
        ("yat_d12", "fp32", 1_044_398_384, 126),
        ("preln_53m", "fp32", 134_777_488, 100),
        ("preln_53m_untied", "fp32", 211_972_488, 101),
    ],
)
def test_files_have_the_size_of_the_specification(system, dtype, size, tensors):
    """To the byte, from the header that would be written; no weight is allocated."""
    settings = SETTINGS[system]
    weights = dict(build_hub_model(settings, device="meta").named_parameters())
    published = published_weights(settings, weights)
    kind = DTYPES[dtype]
    assert HUB_MODELS[settings["recipe"]].dtype == dtype
    header = safetensors_header(published, kind)
    assert len(header) + sum(w.numel() * kind.itemsize for w in published.values()) == size
    assert len(published) == tensors


def test_the_example_of_the_format_is_right():
    """Two numbers in fp32, byte by byte as the docstring lists them."""
    blob = b"".join(safetensors_bytes({"w": torch.tensor([1.0, 2.0])}, torch.float32))
    header = (
        b'{"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    )
    assert blob == bytes([88, *[0] * 7]) + header + b"   " + bytes.fromhex("0000803f00000040")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bytes_are_those_of_the_safetensors_package(tmp_path, dtype):
    """Its own writer makes the same file of the same tensors, numbers without a shape included."""
    safetensors = pytest.importorskip("safetensors.torch", reason="python3 golf.py --with hf test")
    tensors = {"b": torch.randn(3, 5), "a": torch.randn(()), "c.weight": torch.randn(2, 1, 4)}
    path = tmp_path / "ours.safetensors"
    path.write_bytes(b"".join(safetensors_bytes(tensors, dtype)))
    rounded = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    safetensors.save_file(rounded, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "theirs").read_bytes() == path.read_bytes()
    _, read = read_safetensors(path)
    assert all(torch.equal(read[name], tensor) for name, tensor in rounded.items())
