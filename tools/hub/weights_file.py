"""Write safetensors files without the package of that name.

The format: eight bytes with the length of a header, the header, and the tensors' bytes in a row. A
file with one fp32 tensor of two numbers, 1.0 and 2.0 (three blanks fill up the header):

    88 0 0 0 0 0 0 0
    {"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}
    20 20 20
    00 00 80 3f 00 00 00 40
"""

import json
from collections.abc import Iterator

import torch
from torch import Tensor

DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}


def safetensors_header(tensors: dict[str, Tensor], dtype: torch.dtype) -> bytes:
    """The bytes before the tensors: a length, and JSON with each one's place, sorted by name."""
    table = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(tensors):
        begin = end
        end = begin + tensors[name].numel() * dtype.itemsize
        table[name] = {
            "dtype": DTYPE_NAMES[dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text


def safetensors_bytes(tensors: dict[str, Tensor], dtype: torch.dtype) -> Iterator[bytes]:
    """The parts of a safetensors file, one tensor at a time."""
    yield safetensors_header(tensors, dtype)
    for name in sorted(tensors):
        flat = tensors[name].to(dtype).reshape(-1)  # a single number has no bytes to view
        yield flat.view(torch.uint8).numpy().tobytes()
