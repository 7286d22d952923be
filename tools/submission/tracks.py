"""The tracks of records: the rules of each, its folder under records/, its leaderboard section."""

from dataclasses import dataclass

from engine.settings import MINI_TRACK


@dataclass(frozen=True)
class Track:
    """The rules of one track; None where it has none."""

    section: str  # of the leaderboard
    folder: str  # under records/
    min_seeds: int
    train_cap_seconds: float | None
    eval_cap_seconds: float | None
    is_fineweb: bool  # scored on the challenge's validation split
    train_cap_flops: float | None = None  # tokens times the model's flops_per_token
    artifact_cap_bytes: int | None = None  # of the artifact alone, beside the cap of everything


# By the name in submission.json. The challenge's own two are folders of its repository.
TRACKS = {
    "10min_16mb": Track("10min_8xh100", "track_10min_16mb", 3, 600, 600, True),
    "10min_8xh100": Track("10min_8xh100", "10min_8xh100", 3, 600, 600, True),
    "non_record_16mb": Track("unlimited", "track_non_record_16mb", 1, None, None, True),
    "10min_1gpu": Track("10min_1gpu", "10min_1gpu", 3, 600, None, True),
    "unlimited": Track("unlimited", "unlimited", 1, None, None, True),
    "smoke_cpu": Track("smoke_cpu", "smoke_cpu", 1, None, None, False),
    "mini_cpu": Track(
        "mini_cpu",
        "mini_cpu",
        3,
        None,
        None,
        False,
        MINI_TRACK["max_train_flops"],
        MINI_TRACK["max_artifact_bytes"],
    ),
}
SECTIONS = {
    "10min_8xh100": "10 minutes, 8×H100",
    "10min_1gpu": "10 minutes, 1 GPU",
    "unlimited": "unlimited compute",
    "smoke_cpu": "smoke test, CPU",
    "mini_cpu": "mini: 250,000 bytes, 1e14 FLOP, CPU",
}
