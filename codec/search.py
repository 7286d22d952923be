"""The base step whose stream has the wanted size: packing to a number of bytes.

The finer the base step, the more bytes. How many cannot be told without choosing all the points and
coding them, which takes seconds, so few steps may be tried. Each try is chosen by an estimate (that
the weights are Gaussian), corrected by what it missed the last time, and kept inside the bracket of
the tries so far. A search for 100,000 bytes:

    try   estimate says    base step    stream    then
     1    100,000          2**-3.10     104,100   the estimate is 4,100 too low: aim at 95,900
     2     95,900          2**-2.98      99,700   between 2**-3.10 and 2**-2.98, and so on
     3    100,200 - 4,500  2**-2.99      99,950   within 0.1 %: done

Dimensions in names: none.
"""

import math
import time
import warnings
from collections.abc import Callable

import numpy as np

from codec.gptq import Matrices, Matrix
from codec.rans import LARGEST_STEP
from codec.trellis import Points

TRIES = 24  # at most; most searches take three
CLOSE_ENOUGH = 0.999  # of the bytes that may be used
COARSEST = 30.0  # log2 of the largest base step that is tried, where that of no matrix is too large
# After so many tries that were all too small, the finest step is tried: most weights may be zeros,
# of which the estimate knows nothing.
PATIENCE = 4
MANY_WEIGHTS = 1_000_000  # coding fewer takes no time
WORTH_CODING = 0.01  # a measured size so near to the wanted one is coded, to see
SURE_TO_FIT = 0.97  # of the bytes, where there is time for one try only
PointCoder = Callable[[list[Points], list[float], int], bytes]


class EndedEarly(UserWarning):
    """A search that time ended before it met its size."""


class StepSearch:
    """Chooses the next base step to try, as its log2, by the sizes of the tries so far.

    Invariant: `too_fine` gave too many bytes, or is below every step; `too_coarse` gave too few, or
    is above every step. The wanted one lies between, and each try makes the bracket smaller.
    """

    def __init__(
        self,
        estimate: Callable[[float], float],
        wanted_bytes: float,
        finest: float,
        coarsest: float = COARSEST,
    ):
        self.estimate = estimate  # bytes at a base step
        self.wanted_bytes = wanted_bytes
        self.finest = finest
        self.coarsest = coarsest
        self.missed_bytes = 0.0  # by the estimate, at the last try
        self.too_fine = -math.inf
        self.too_coarse = math.inf
        self.tries = 0

    def next_octave(self) -> float:
        """The log2 of the base step to try next."""
        if not math.isfinite(self.too_coarse - self.too_fine):
            if self.tries >= PATIENCE and self.too_coarse < math.inf:
                return self.finest
            return self.estimated_octave()
        # The estimate may be wrong by more than the bracket is wide.
        margin = (self.too_coarse - self.too_fine) / 8
        lowest, highest = self.too_fine + margin, self.too_coarse - margin
        return min(max(self.estimated_octave(), lowest), highest)

    def estimated_octave(self) -> float:
        """Where the corrected estimate meets the wanted size, by halving between the extremes."""
        fine, coarse = self.finest, self.coarsest
        for _ in range(50):
            middle = (fine + coarse) / 2
            if self.estimate(2.0**middle) + self.missed_bytes > self.wanted_bytes:
                fine = middle
            else:
                coarse = middle
        return fine

    def note(self, octave: float, step: float, size: int) -> None:
        """Take in that this base step gave a stream of this size."""
        self.tries += 1
        self.missed_bytes = size - self.estimate(step)
        if size > self.wanted_bytes:
            self.too_fine = octave
        else:
            self.too_coarse = octave


def quantize_to_size(
    matrices: list[Matrix],
    most_bytes: float,
    encode: PointCoder,
    *,
    measure: Callable[[list[Points]], float] | None = None,
    prepare: Callable[[list[Matrix]], Matrices] = Matrices,
    seconds_left: Callable[[], float] = lambda: math.inf,
    finest_step: float = 2.0**-50,
    states: int = 8,
    beside_bytes: int = 0,
) -> bytes:
    """What encode makes of these matrices in 99.9 to 100 % of most_bytes, less beside_bytes.

    What is meant to take more than its finest step ends there, smaller. Where errors are weighed in
    a common unit, one step for all is the best allocation of bits. Of few or unusual weights sizes
    jump, and all tries may miss: then the largest stream that fits is taken. measure tells about
    how long a stream will be; of many weights, those that are far off are not coded. prepare
    may give Matrices that other ranks help with.

    Each try takes as long as the longest before it. While seconds_left allows no other one, the
    stream at hand is taken; where there is none, the last try aims at fewer bytes, to fit for sure.
    Warns: EndedEarly where time ended it so.
    Raises: ValueError where none fits; TimeoutError where there is no time for the first.
    """
    started = time.perf_counter()
    most_bytes -= beside_bytes
    prepared = prepare(matrices)
    weights = sum(matrix.weight_RC.numel() for matrix in matrices)
    least_bytes = CLOSE_ENOUGH * most_bytes
    finest = math.log2(finest_step)
    # Half the largest that the coder takes: the division by a scale rounds.
    largest_step = LARGEST_STEP / 2 * float(prepared.scales.min(initial=1.0))
    search = StepSearch(
        lambda step: prepared.bits(step) / 8,
        (least_bytes + most_bytes) / 2,
        finest,
        min(COARSEST, math.log2(largest_step)),
    )
    best = b""
    fewest_bytes = math.inf
    longest_seconds = time.perf_counter() - started  # what preparing took: a try takes longer
    while search.tries < TRIES:
        if seconds_left() < longest_seconds:
            if not best:
                raise TimeoutError(f"{seconds_left():.1f} s are left, too few to quantise points")
            warnings.warn(f"no time to get nearer than {len(best)} bytes", EndedEarly, stacklevel=2)
            break
        if not best and seconds_left() < 2 * longest_seconds:
            search.wanted_bytes = SURE_TO_FIT * most_bytes
        started = time.perf_counter()
        octave = search.next_octave()
        step = float(np.float32(2.0**octave))
        points = prepared.points(step, states)
        is_extreme = octave - finest < 1e-6 or octave > search.coarsest - 1e-6
        size = measure(points) if measure and weights >= MANY_WEIGHTS and not is_extreme else 0
        if abs(size - search.wanted_bytes) < WORTH_CODING * search.wanted_bytes or not size:
            stream = encode(points, prepared.base_steps(step), states)
            size = len(stream)
            fewest_bytes = min(fewest_bytes, size)
            if len(best) < size <= most_bytes:
                best = stream
        search.note(octave, step, size)
        longest_seconds = max(longest_seconds, time.perf_counter() - started)
        if least_bytes <= size <= most_bytes:
            break
        if is_extreme and (size > most_bytes) == (octave > finest + 1e-6):
            break  # no step is left that could take less, or is worth more
    if best:
        return best
    raise ValueError(
        f"{most_bytes + beside_bytes} bytes are out of reach: {weights} weights take"
        f" {fewest_bytes + beside_bytes} at least; raise the bound (in a run MAX_ARTIFACT_BYTES) or"
        " take a smaller model"
    )
