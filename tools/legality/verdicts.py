"""What the lint says about each pattern: the rule that it breaks, the evidence and the remedy."""

from tools.legality.rules import Finding

# Pattern -> rule, evidence, remedy.
VERDICTS = {
    "hashed": (
        "normalised",
        "the target's id is part of a hashed lookup key",
        "look up the context alone, and mix in a distribution over all ids that sums to 1",
    ),
    "spread": (
        "normalised",
        "a token's probability is spread over its bytes",
        "score tokens, or bytes with a distribution of their own that sums to 1 over 256",
    ),
    "counted": (
        "score-first",
        "scores read a table that was counted over validation text beforehand",
        "count a chunk only after it has been scored, in the same loop",
    ),
    "trained": (
        "score-first",
        "a loss on validation tokens trains before they are scored",
        "score each chunk without gradients, keep that score, then train on it; compile and warm up"
        " on made-up tokens",
    ),
    "calibrated": (
        "score-first",
        "weights are calibrated on validation text",
        "collect activations on training text, or on text that the model wrote, while the training"
        " clock runs",
    ),
    "optimised": (
        "causal",
        "a vector is optimised on validation tokens before their score",
        "optimise it on tokens that have been scored, and use it for later ones",
    ),
    "peeked": (
        "causal",
        "the prediction of a token is made from that token",
        "predict from the tokens before it, and from what was learned on tokens scored before",
    ),
    "epochs": (
        "one-pass",
        "validation text is scored again in every epoch of training on it",
        "make one pass: score a chunk, keep that score, train on it, go on to the next",
    ),
    "again": (
        "one-pass",
        "validation text is scored again after the model has learned from it",
        "keep the first score of every token, taken before anything learned from it",
    ),
    "smaller": (
        "one-pass",
        "the smaller of several losses of the same tokens is kept",
        "decide before the tokens are seen which pass counts, and report that one",
    ),
    "late": (
        "phases",
        "training text calibrates the weights after the training clock has run out",
        "stop training earlier, and calibrate within the ten minutes; or on text the model wrote",
    ),
    "gated": (
        "normalised",
        "a score is changed by a choice that looks at the target",
        "choose by the tokens before the target, and divide by the sum over all ids",
    ),
    "deep": (
        "hidden",
        "an expression is nested too deeply to be followed",
        "look at it; nothing that depends on it was checked",
    ),
    "unread": (
        "hidden",
        "cannot be read: {}",
        "look at what it does; nothing of it was checked",
    ),
    "written": (
        "hard-coded",
        "a score is written down: {}",
        "print what was computed from the tokens",
    ),
    "train text": (
        "phases",
        "{} is read while scoring",
        "read training text, for calibration too, before the training clock ends",
    ),
    "file": (
        "artifact-only",
        "{} is read while scoring",
        "a score may use artifact, code, tokenizer and validation text alone",
    ),
    "network": (
        "network",
        "{} reaches the network",
        "put what it fetches into the artifact, or among the record's requirements",
    ),
    "long": (
        "hidden",
        "the program is too large to be followed to its end",
        "look at the order of scoring and training in the functions that are called last",
    ),
}


def say(pattern: str, place: str, level: str = "fail", detail: str = "") -> Finding:
    rule, evidence, remedy = VERDICTS[pattern]
    return Finding(rule, level, place, evidence.format(detail), remedy)
