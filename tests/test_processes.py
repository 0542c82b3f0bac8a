"""The tests end what they have started, and nothing else."""

import os
from pathlib import Path

from tests.processes import Process


def test_a_session_whose_number_went_to_somebody_else_is_left_alone(tmp_path: Path) -> None:
    ended = Process("ended", ["true"], tmp_path, os.environ, tmp_path)
    ended.popen.wait()
    assert not ended.session()
    stranger = Process("stranger", ["sleep", "60"], tmp_path, os.environ, tmp_path)
    ended.popen.pid = stranger.popen.pid  # as the system does when all numbers were given out
    ended.kill()
    assert stranger.popen.poll() is None
    stranger.kill()
    assert stranger.popen.poll() is not None
