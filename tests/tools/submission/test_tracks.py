"""Tracks: one table, whose every row has a place in the leaderboard and a folder of its own."""

from tools.submission.tracks import SECTIONS, TRACKS


def test_every_track_has_a_section_and_a_folder():
    """No track is left out of the leaderboard, no section is empty, no folder serves two tracks."""
    assert {track.section for track in TRACKS.values()} == set(SECTIONS)
    folders = [track.folder for track in TRACKS.values()]
    assert len(set(folders)) == len(folders)


def test_the_record_track_is_the_challenges():
    """Three seeds, ten minutes each for training and scoring, on the whole validation split."""
    for name in ("10min_16mb", "10min_8xh100"):
        track = TRACKS[name]
        assert (track.min_seeds, track.train_cap_seconds, track.eval_cap_seconds) == (3, 600, 600)
        assert track.is_fineweb
