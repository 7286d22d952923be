"""The kernel for GPUs: by Triton's interpreter on a CPU, and compiled without a device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from codec import viterbi_gpu

ROOT = Path(__file__).parents[2]
needs_triton = pytest.mark.skipif(not viterbi_gpu.is_usable, reason="Triton is not installed")

EQUAL = """
import sys
import torch
from codec import viterbi_gpu
from codec.viterbi import ColumnQuantizer

torch.manual_seed(0)
for states in (4, 8, 16, 32):
    x_PT = 3 * torch.randn(3, 12)
    x_PT[0, 0], x_PT[1], x_PT[2, :3] = 1e9, 0, torch.tensor([1.0, 2.0, 0.5])
    expected = ColumnQuantizer(states, "cpu").points(x_PT)
    assert torch.equal(viterbi_gpu.points(x_PT, states), expected), states
"""

SAME_STREAM = """
import math
import torch
import quantize
from codec import viterbi_gpu
from codec.viterbi import ColumnQuantizer

torch.manual_seed(0)
state = {"tall": torch.randn(270, 3), "wide": torch.randn(9, 12), "fp16": torch.randn(5)}
hessians = {}
for name in ("tall", "wide"):
    inputs = torch.randn(40, state[name].shape[1])
    hessians[name] = inputs.T @ inputs / 40
of_cpu = quantize.encode_trellis(state, hessians, {}, math.inf, states=32)
columns = []

def by_kernel(self, x_PT):
    columns.append(x_PT)
    return viterbi_gpu.points(x_PT, self.states)

ColumnQuantizer.points = by_kernel
of_kernel = quantize.encode_trellis(state, hessians, {}, math.inf, states=32)
assert len(columns) == 3 + 12, len(columns)
assert of_kernel == of_cpu
"""

COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from codec import viterbi_gpu

constants = viterbi_gpu.constants(32)
names = viterbi_gpu.path_kernel.arg_names
types = {"x_PT": "*fp32", "words_PT": "*i32", "points_PT": "*fp32", "T": "i32"}
source = ASTSource(
    fn=viterbi_gpu.path_kernel,
    signature=types | dict.fromkeys(constants, "constexpr"),
    constexprs={(names.index(name),): value for name, value in constants.items()},
)
options = {"num_warps": 1, "enable_fp_fusion": False}
kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
assert len(kernel.asm["cubin"]) > 1000
assert "fma.rn.f32" not in kernel.asm["ptx"]  # a fused product would round once, not twice
assert kernel.metadata.shared == 0
"""


def run(code, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode()


@needs_triton
def test_points_equal_those_of_the_cpu():
    """For every code, ties and targets out of reach included, to the last bit."""
    run(EQUAL, TRITON_INTERPRET="1")


@needs_triton
def test_a_whole_stream_is_that_of_the_cpu():
    """An artifact of two matrices, byte for byte, each point by the kernel; one has two parts."""
    run(SAME_STREAM, TRITON_INTERPRET="1")


@needs_triton
def test_the_kernel_compiles_for_a_hopper_gpu():
    """Without a device: to machine code, without fused products and without shared memory."""
    run(COMPILED)


def test_constants_are_those_of_the_code():
    """Of the code for 32 states: parity checks 0o45 and 0o10, less their lowest bit."""
    assert viterbi_gpu.constants(32) == {"FEEDBACK": 2, "FORWARD": 4, "K": 16, "LIMIT": 4194300.0}
