"""Every line of a run's log, once: who writes a line and who reads it use the same definition.

A line is a template. A field's format tells what it holds, and so how it is read back:

    STEP = Line("step:{step:d}/{iterations:d} train_loss:{train_loss:.4f}")
    STEP.write(step=3, iterations=20, train_loss=6.25)  ->  "step:3/20 train_loss:6.2500"
    STEP.read("step:3/20 train_loss:6.2500")  ->  {"step": 3, "iterations": 20, "train_loss": 6.25}
    STEP.read("trained steps:3")  ->  None

    {name:d}    a whole number            {name}      one word, without spaces or colons
    {name:.4f}  a number                  {name:s}    any text

To log one more number, add it here and where the line is written. What is added to the end of a
line stands apart, so that logs of before are still read:

    STEP = Line("step:{step:d}/{iterations:d} train_loss:{train_loss:.4f}", " norm:{norm:.3f}")
    STEP.read("step:3/20 train_loss:6.2500")  ->  as above, without "norm"
"""

import re
from string import Formatter

WHOLE_NUMBER = r"-?\d+"
NUMBER = r"-?(?:\d+(?:\.\d+)?|nan|inf)"
WORD = r"[^\s:]+"
TEXT = r".*"


class Line:
    """One kind of log line: its template, and what was added to its end later, in that order."""

    def __init__(self, template: str, *additions: str):
        self.template = "".join([template, *additions])
        self.types: dict[str, type] = {}
        pattern = self._pattern(template)
        for addition in additions:  # older lines end before it
            pattern += f"(?:{self._pattern(addition)})?"
        self.pattern = re.compile(pattern)

    def _pattern(self, template: str) -> str:
        """What a line of this template looks like; takes in the types of its fields."""
        pattern = ""
        for literal, name, spec, _ in Formatter().parse(template):
            pattern += re.escape(literal)
            if name is None:  # the template ends in literal text
                continue
            kind, self.types[name] = _field(spec)
            pattern += f"(?P<{name}>{kind})"
        return pattern

    def write(self, **fields) -> str:
        as_text = {name: str(value) for name, value in fields.items() if self.types[name] is str}
        return self.template.format(**{**fields, **as_text})

    def read(self, text: str) -> dict | None:
        """The fields of a line of this kind, each of its type; None for any other line."""
        match = self.pattern.fullmatch(text)
        if match is None:
            return None
        texts = {name: text for name, text in match.groupdict().items() if text is not None}
        return {name: self.types[name](text) for name, text in texts.items()}


def _field(spec: str) -> tuple[str, type]:
    """The pattern and the type of a field with this format."""
    if spec.endswith("d"):
        return WHOLE_NUMBER, int
    if spec.endswith("f"):
        return NUMBER, float
    return (TEXT, str) if spec == "s" else (WORD, str)


# Before training ----------------------------------------------------------------------------------

RUN = Line("run:{folder:s} preset:{preset} ({reason:s})")
OVERRIDES = Line("overrides {overrides:s}")  # NAME=value, by spaces; or "none"
SETTINGS = Line("hparams {settings:s}")  # JSON
SOURCE = Line("source {file} sha256:{sha256}")
VERSIONS = Line("python:{python} torch:{torch} device:{device:s}")
PROCESSES = Line("world_size:{world_size:d} cores:{cores:d} threads:{threads:d}")
GPU = Line("gpu:{gpu:s} cuda:{cuda}")
DATA = Line(
    "data train_shards:{train_shards:d} train_tokens:{train_tokens:d}"
    " holdout_tokens:{holdout_tokens:d} val_tokens:{val_tokens:d}"
)
ON_CPU = Line("no CUDA device: training on the CPU, compiled:{compiled:d} in:{dtype}")
ATTENTION = Line("attention kernel:{kernel} in:{dtype}")
LENGTH = Line("length iterations:{iterations:d} of max_train_flops:{max_flops}")
PARAMETERS = Line("model_params:{model_params:d}")
RESUMED = Line("resumed step:{step:d} train_time:{train_ms:.0f}ms")
COMPILING = Line("compiling: a minute or two, which the clock does not count")
WARMUP = Line(
    "warmup steps:{steps:d} warmup_time:{warmup_ms:.0f}ms reserve_time:{reserve_ms:.0f}ms"
)
SHORT_RESERVE = Line(
    "warning: choosing, packing and writing took {seconds:.1f} s in rehearsal, much of"
    " MAX_WALLCLOCK_SECONDS={cap:.0f}; {kept:.0f} s are kept for them, so the artifact may be"
    " coarser or late. On a machine that others use less, or with"
    " MAX_WALLCLOCK_SECONDS={enough:.0f}, it is neither"
)
EXPECTED = Line("expected training and packing:{training} then scoring:{score_s:.0f}s")
PEAK = Line("mfu of flops_per_token:{flops_per_token:d} and peak_flops:{peak_flops}")

# Training -----------------------------------------------------------------------------------------

STEP = Line(
    "step:{step:d}/{iterations:d} train_loss:{train_loss:.4f} train_time:{train_ms:.0f}ms"
    " step_avg:{step_ms:.2f}ms tok_s:{tokens_s:.0f} mfu:{mfu}"
)
# The metric's name is val_bpb, or val_bpb_partial where the validation split is not complete.
VALIDATION = Line("step:{step:d}/{iterations:d} val_loss:{val_loss:.4f} {metric}:{bpb:.4f}")
STOPPED = Line("stopped step:{step:d} continue with RESUME={run_id}")
STOPPED_ELSEWHERE = Line("stopped, continue with RESUME={run_id}")  # not between two steps

# The end of a run ---------------------------------------------------------------------------------

AVERAGE = Line(
    "average {losses:s} exported:{exported} gain:{gain:.4f} holdout_tokens:{holdout_tokens:d}"
)
PACKED = Line(
    "packed bytes:{bytes:d} unpacked_loss:{unpacked:.4f} packed_loss:{packed:.4f}"
    " lost:{lost:.4f} foreseen:{foreseen:.4f}"
)
REPACKED = Line(
    "{level}: packing lost {lost:.4f} nats where {foreseen:.4f} were foreseen{reason:s}; int8 rows"
    " of {rows_bytes:d} bytes lose {rows_lost:.4f}: kept the {kept}"
)
OUT_OF_TIME = Line(
    "warning: packing ran out of time and ended with {bytes:d} bytes; lower ITERATIONS, or raise"
    " MAX_WALLCLOCK_SECONDS"
)
TRAINED = Line("trained steps:{steps:d} train_time:{train_ms:.0f}ms cap:{cap_ms:.0f}ms")
OVERTIME = Line("warning: training took {seconds:.1f} s, over MAX_WALLCLOCK_SECONDS={cap:.1f}")
MEMORY = Line("peak memory allocated: {allocated:d} MiB reserved: {reserved:d} MiB")
ARTIFACT = Line(
    "artifact model_bytes:{model_bytes:d} code_bytes:{code_bytes:d} total_bytes:{total_bytes:d}"
    " cap_bytes:{cap_bytes}"
)

# Any long phase, once a minute --------------------------------------------------------------------

PROGRESS = Line("{label:s} {percent:.0f}%, about {seconds_left:.0f} s left")

# Scoring ------------------------------------------------------------------------------------------

PLAN = Line(
    "plan mode:{mode} stride:{stride:d} targets:{targets:d} forward_tokens:{forward_tokens:d}"
    " passes:{passes:.2f} equivalents:{equivalents:.2f} context_min:{context_min:d}"
    " context_median:{context_median:d} seconds:{seconds:.0f} seconds_on_h100:{seconds_h100:.1f}"
)
RESULT = (
    "val_loss:{val_loss:.8f} {metric}:{bpb:.8f} targets:{targets:d} bytes:{bytes:d}"
    " eval_time:{eval_ms:d}ms"
)
SCORE = Line(
    "score mode:{mode} stride:{stride:d} isolate:{isolate:d} " + RESULT,
    " repeats:{repeats:d}",  # whether a document's own repeats were mixed in
)
UNIGRAM = Line("unigram val_loss:{val_loss:.8f} {metric}:{bpb:.8f}")
FINAL = Line("final " + RESULT)
