"""A cluster's sign of life: each probe sees its own workers only, and says which is not well and why."""

import json
import os
import pwd
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from clusters import alike_elsewhere
from project import variables
from worker import health, heartbeat
from worker.heartbeat import Heartbeat

BEAT = """
import os, sys, time
import django
django.setup()
from worker import heartbeat
if len(sys.argv) > 1:
    heartbeat.PROJECT = sys.argv[1]
print(heartbeat.Heartbeat("test").beat(1, [], {}), flush=True)
time.sleep(60)
"""


def beating(temporary: Path, *project: str) -> "subprocess.Popen[str]":
    """Start another main process of the cluster, which beats once."""
    env = variables({"TMPDIR": str(temporary), "DJANGO_SETTINGS_MODULE": "config.settings", "PYTHONPATH": "."})
    process = subprocess.Popen([sys.executable, "-c", BEAT, *project], env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "\n"
    return process


def end(process: "subprocess.Popen[str]") -> None:
    """End it as SIGKILL does."""
    process.kill()
    process.communicate()


def file_of(temporary: Path) -> Path:
    """Return the only file with a sign of life."""
    (file,) = temporary.glob("*/*")
    return file


def test_a_cluster_that_beats_is_healthy_until_it_stops(temporary: Path) -> None:
    beating = Heartbeat("test")
    assert beating.beat(agent=11, workers=[12, 13], late={}) == ""
    assert health.cluster("test") == ""
    content = json.loads(file_of(temporary).read_text())
    assert (content["main"], content["agent"], content["workers"]) == (os.getpid(), 11, [12, 13])
    assert file_of(temporary).parent.stat().st_mode & 0o777 == 0o700
    beating.stop()
    assert health.cluster("test") == "cluster test is not running on this host"


def test_a_cluster_that_has_ceased_to_beat_is_not_healthy(temporary: Path) -> None:
    Heartbeat("test").beat(11, [], {})
    os.utime(file_of(temporary), (time.time() - 100, time.time() - 100))
    assert health.cluster("test") == f"process {os.getpid()} of cluster test gave its last sign of life 100 s ago"


def test_a_thread_that_is_late_is_named(temporary: Path) -> None:
    Heartbeat("test").beat(11, [], {"saving results": 12.3, "renewing leases": 31.0})
    assert health.cluster("test") == (
        "process 11 of cluster test is late with saving results (for 12 s) and renewing leases (for 31 s)"
    )


@pytest.mark.parametrize("name", ["other", "te", "test-1", "a/b", "../x"])
def test_another_cluster_is_another(temporary: Path, name: str) -> None:
    Heartbeat(name).beat(11, [], {})
    assert health.cluster("test") == "cluster test is not running on this host"
    assert health.cluster(name) == ""
    assert file_of(temporary).parent.parent == temporary


@alike_elsewhere
def test_one_of_two_workers_on_a_host_is_not_taken_for_the_other(temporary: Path) -> None:
    mine, other = Heartbeat("test"), beating(temporary)
    try:
        mine.beat(11, [], {})
        assert health.cluster("test") == ""
        (file,) = (file for file in temporary.glob("*/*") if f"-{other.pid}-" in file.name)
        Heartbeat("test")  # whoever starts meanwhile lets it be
        os.utime(file, (1, 1))
        assert health.cluster("test").startswith(f"process {other.pid} of cluster test gave its last sign of life ")
    finally:
        end(other)


@alike_elsewhere
def test_what_a_dead_worker_has_left_goes_when_the_next_one_starts(temporary: Path) -> None:
    end(beating(temporary))
    os.utime(file_of(temporary), (1, 1))
    assert "last sign of life" in health.cluster("test")
    Heartbeat("test")
    assert health.cluster("test") == "cluster test is not running on this host"


def test_what_a_dead_worker_has_left_goes_though_another_has_its_number(temporary: Path) -> None:
    other = beating(temporary)
    try:
        file = file_of(temporary)
        file.rename(file.with_name(f"{file.name.rpartition('-')[0]}-1"))
        Heartbeat("test")
        assert not list(temporary.glob("*/*"))
    finally:
        end(other)


def test_another_checkout_is_not_seen(temporary: Path) -> None:
    other = beating(temporary, "another path")
    try:
        assert health.cluster("test") == "cluster test is not running on this host"
        Heartbeat("test")
        assert file_of(temporary)
    finally:
        end(other)


def test_what_another_user_runs_is_for_that_user_to_tell(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Heartbeat("test").beat(11, [], {})
    (temporary / folder_name(temporary).replace(f"-{os.getuid()}", "-1")).mkdir()  # of which that user knows nothing
    monkeypatch.setattr(heartbeat, "_user", lambda: 12345)
    assert health.cluster("test") == (
        "cannot see whether cluster test is running on this host: "
        f"run this as {pwd.getpwuid(os.getuid()).pw_name}, whose worker it may be"
    )


def test_a_link_in_the_place_of_the_folder_is_not_followed(temporary: Path) -> None:
    name = folder_name(temporary)
    (temporary / "elsewhere").mkdir()
    (temporary / name).symlink_to("elsewhere")
    assert Heartbeat("test").beat(11, [], {}).endswith("is not a folder that belongs to this user alone")
    assert health.cluster("test") == (
        "cluster test has nowhere to leave a sign of life "
        f"({temporary / name} is not a folder that belongs to this user alone)"
    )
    assert not list((temporary / "elsewhere").iterdir())


def test_another_users_folder_is_not_used(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (temporary / folder_name(temporary)).mkdir(mode=0o700)
    owner = os.getuid()
    monkeypatch.setattr(heartbeat, "_user", lambda: owner + 1)  # whose name the folder would then bear
    (temporary / folder_name(temporary)).mkdir(mode=0o700)
    assert "belongs to this user alone" in Heartbeat("test").beat(11, [], {})


def test_a_folder_that_others_can_write_to_is_not_used(temporary: Path) -> None:
    folder = temporary / folder_name(temporary)
    folder.mkdir()
    folder.chmod(0o777)
    assert "belongs to this user alone" in health.cluster("test")


@pytest.mark.parametrize(
    ("flags", "free", "problem"), [(os.ST_RDONLY, 5, "read-only: mount a tmpfs there"), (0, 0, "full")]
)
def test_a_temporary_folder_without_room_is_told_and_no_other_one_looked_for(
    flags: int, free: int, problem: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=flags, f_bavail=free))
    sentence = f"cluster test has nowhere to leave a sign of life ({temporary} is {problem})"
    assert health.cluster("test") == sentence
    beating = Heartbeat("test")
    beating.beat(11, [], {})
    assert health.cluster("test") == ""
    file = file_of(temporary)
    os.utime(file, (time.time() - 100, time.time() - 100))
    assert health.cluster("test") == sentence


def test_a_missing_temporary_folder_is_told(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = temporary / "missing"
    monkeypatch.setenv("TMPDIR", str(missing))
    sentence = f"[Errno 2] No such file or directory: '{missing}'"
    beating = Heartbeat("test")
    assert beating.beat(11, [], {}) == sentence
    beating.stop()
    assert health.cluster("test") == f"cluster test has nowhere to leave a sign of life ({sentence})"


def test_a_full_disk_is_told(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    beating = Heartbeat("test")
    beating.beat(11, [], {})
    monkeypatch.setattr(Path, "write_text", full)
    assert beating.beat(11, [], {}) == "[Errno 28] No space left on device"
    assert health.cluster("test") == ""  # until the last one is old


def test_a_probe_never_finds_half_a_file(temporary: Path) -> None:
    beating, over = Heartbeat("test"), threading.Event()
    beating.beat(11, [], {})

    def beat() -> None:
        while not over.is_set():
            beating.beat(11, list(range(2000)), {})

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        assert {health.cluster("test") for _ in range(500)} == {""}
    finally:
        over.set()
        thread.join()


def folder_name(temporary: Path) -> str:
    """Return the name of the folder for signs of life."""
    folder: Path = heartbeat._folder()  # noqa: SLF001 (its name is what is attacked)
    assert folder.parent == temporary
    return folder.name
