"""The Viterbi algorithm of viterbi.py as one kernel for NVIDIA GPUs: a warp a path, a lane a state.

PyTorch launches some 2,000 small kernels for each column of a matrix, and a GPU spends nearly all
of the time between them. Here one launch takes a column. The arithmetic is that of the CPU, each
operation rounded by itself, so the points are the same.

    forward     lane q = 2 k + p holds what the cheapest way costs into the state
                p K + (k XOR p feedback). Two shuffles fetch the costs of the two predecessors;
                which one was cheaper is bit q of a word
    backward    the words, from the last to the first, give the residues and so the points

Checked by Triton's interpreter on a CPU, and by compiling it for sm_90 without a device.
"""

import importlib.util

import torch
from torch import Tensor

from codec.trellis import LARGEST_POINT, PARITY_CHECKS

is_usable = importlib.util.find_spec("triton") is not None

if is_usable:
    import triton
    import triton.language as tl

    @triton.jit
    def nearest(x, residue):
        """The nearest point of a residue modulo 4, ties to the even multiple as torch.round."""
        shift = 12582912.0  # 1.5 * 2**23: adding it leaves no bits for a fraction
        return ((x - residue) * 0.25 + shift - shift) * 4.0 + residue

    @triton.jit
    def path_kernel(
        x_PT, words_PT, points_PT, T, FEEDBACK: tl.constexpr, FORWARD: tl.constexpr,
        K: tl.constexpr, LIMIT: tl.constexpr,
    ):  # fmt: skip
        """The points of path number program_id; K is half the number of states."""
        start = tl.program_id(0).to(tl.int64) * T
        q = tl.arange(0, 2 * K)
        k = q >> 1
        p = q & 1
        own_bit = ((k & FORWARD) != 0).to(tl.int32)
        state = p * K + (k ^ (p * FEEDBACK))
        low = 2 * (k & ~FORWARD) + p
        high = low + 2 * FORWARD
        # the lanes that hold the costs of these two states
        low_p = low // K
        high_p = high // K
        low_lane = 2 * ((low & (K - 1)) ^ (low_p * FEEDBACK)) + low_p
        high_lane = 2 * ((high & (K - 1)) ^ (high_p * FEEDBACK)) + high_p
        low_residue = (p + 2 * own_bit).to(tl.float32)
        high_residue = (p + 2 * (1 - own_bit)).to(tl.float32)

        total = tl.where(state == 0, 0.0, float("inf"))
        for t in range(T):
            x = tl.load(x_PT + start + t)
            # Beyond it float32 no longer tells neighbouring points apart.
            x = tl.minimum(tl.maximum(x, -LIMIT), LIMIT)
            low_gap = x - nearest(x, low_residue)
            high_gap = x - nearest(x, high_residue)
            from_low = tl.gather(total, low_lane, 0) + low_gap * low_gap
            from_high = tl.gather(total, high_lane, 0) + high_gap * high_gap
            took_high = from_high < from_low
            total = tl.where(took_high, from_high, from_low)
            # One word for all states: a sum of distinct powers of two has each as a bit.
            tl.store(words_PT + start + t, tl.sum(took_high.to(tl.int32) << q, 0))

        tl.debug_barrier()  # every word is written before any is read
        least = tl.min(total, 0)
        # Of states that cost the same the first, as argmin has it on the CPU.
        last = tl.min(tl.where(total == least, state, 2 * K), 0)
        last_p = last // K
        place = 2 * ((last & (K - 1)) ^ (last_p * FEEDBACK)) + last_p
        for i in range(T):
            t = T - 1 - i
            word = tl.load(words_PT + start + t)
            took = (word >> place) & 1
            k_here = place >> 1
            p_here = place & 1
            bit = ((k_here & FORWARD) != 0).to(tl.int32) ^ took
            x = tl.load(x_PT + start + t)
            x = tl.minimum(tl.maximum(x, -LIMIT), LIMIT)
            tl.store(points_PT + start + t, nearest(x, (p_here + 2 * bit).to(tl.float32)))
            before = 2 * ((k_here & ~FORWARD) | (took * FORWARD)) + p_here
            before_p = before // K
            place = 2 * ((before & (K - 1)) ^ (before_p * FEEDBACK)) + before_p


def constants(states: int) -> dict[str, int]:
    """What the kernel is compiled for: the code of so many states, and the largest target."""
    feedback, forward = (check >> 1 for check in PARITY_CHECKS[states])
    K = states // 2
    return {"FEEDBACK": feedback - K, "FORWARD": forward, "K": K, "LIMIT": LARGEST_POINT - 4.0}


def points(x_PT: Tensor, states: int) -> Tensor:
    """The allowed points of least squared distance in all along each path; more than one state."""
    x_PT = x_PT.contiguous()
    P, T = x_PT.shape
    points_PT = torch.empty_like(x_PT)
    if x_PT.numel():
        words_PT = torch.empty(P, T, dtype=torch.int32, device=x_PT.device)
        # A warp has 32 lanes, as many as there are states at most. A fused multiply-add would round
        # once where the CPU rounds twice, and now and then choose another point.
        options = {"num_warps": 1, "enable_fp_fusion": False}
        path_kernel[(P,)](x_PT, words_PT, points_PT, T, **constants(states), **options)
    return points_PT
