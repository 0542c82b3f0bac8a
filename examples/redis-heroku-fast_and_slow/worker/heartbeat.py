"""A cluster's sign of life for the probes on its own host: a file. Others look at worker.queue.signs.

django-q2 publishes a status too, but it does not say which cluster it is of, and asking for it needs the database:
a probe that fails when the database is away would have the platform restart workers that only need to wait.

The file lies in a folder that only its user can write to, and is named by cluster, project's path, main process and
when that began: so two workers on one host, two checkouts, two users, and two processes of one number never meet.
"""

import hashlib
import json
import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from django_q.conf import Conf

FRESH = 10.0  #: seconds for which the file counts; the main process writes it each second
PROJECT = hashlib.sha256(bytes(Path(__file__).resolve().parent.parent)).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Beat:
    """What a cluster's main process has left on this host."""

    main: int
    agent: int
    workers: list[int]
    late: dict[str, float]  #: what a thread does, and the seconds for which it is late
    age: float  #: seconds


class Heartbeat:
    """The file, which the main process writes."""

    def __init__(self, cluster: str) -> None:
        """Remove the files that dead processes of this cluster and project have left."""
        self._name = f"{_prefix(cluster)}{os.getpid()}-{_born(os.getpid())}"
        with suppress(OSError):
            for file in _folder().glob(f"{_prefix(cluster)}*"):
                pid, _, born = file.name.removeprefix(_prefix(cluster)).removesuffix(".new").partition("-")
                if _born(int(pid)) != born:
                    file.unlink(missing_ok=True)

    def beat(self, agent: int, workers: list[int], late: dict[str, float]) -> str:
        """Give a sign of life; return "", or why it cannot be given. It never raises."""
        content = {"main": os.getpid(), "agent": agent, "workers": workers, "late": late}
        try:
            folder = _folder()
            folder.mkdir(mode=0o700, exist_ok=True)
            new = folder / f"{self._name}.new"
            new.write_text(json.dumps(content))
            new.replace(folder / self._name)  # a probe finds the old one or this one, and no half
        except OSError as error:
            return _obstacle() or str(error)
        return ""

    def stop(self) -> None:
        """Remove the file, when the cluster ends as it should."""
        with suppress(OSError):
            (_folder() / self._name).unlink(missing_ok=True)


def beats(cluster: str) -> list[Beat]:
    """Return the signs of life of the cluster's main processes on this host; an OSError says why there can be none."""
    found = []
    for file in sorted(_folder().glob(f"{_prefix(cluster)}*")):
        if not file.name.endswith(".new"):
            with suppress(FileNotFoundError):  # it has just stopped
                age = abs(time.time() - file.stat().st_mtime)  # of the future: from before the clock was set back
                found.append(Beat(**json.loads(file.read_text()), age=age))
    if all(beat.age > FRESH for beat in found) and (problem := _obstacle()):
        raise OSError(problem)
    return found


def other_users() -> list[str]:
    """Return the others who have run a worker of this project on this host: only they can look into their folders."""
    found = []
    for folder in _temporary().glob(_folder_name("*")):
        with suppress(OSError):
            user = folder.lstat().st_uid
            if user != _user() and folder.name == _folder_name(user):
                found.append(_owner(folder))
    return found


def folder_id() -> str:
    """Return what tells this folder from others, also where hosts or containers have the same name; "" without one."""
    try:
        found = _folder().stat()
    except OSError:
        return ""
    return f"{found.st_dev}:{found.st_ino}"


def is_running(pid: int) -> bool:
    """Say whether there is such a process on this host, and it is not stopped, as by SIGSTOP."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "TtXZ"
    except FileNotFoundError:  # the system does not tell
        return True
    except OSError:
        return False


def _prefix(cluster: str) -> str:
    return f"{quote(cluster, safe='')}-{PROJECT}-"


def _folder() -> Path:
    """Return this user's folder for this project's files, which may not be there yet."""
    user = _user()
    folder = _temporary() / _folder_name(user)
    with suppress(FileNotFoundError):
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o022:
            raise PermissionError(f"{folder} is not a folder that belongs to this user alone")
    return folder


def _folder_name(user: int | str) -> str:
    return f"{quote(Conf.PREFIX, safe='')}-worker-{user}"


def _owner(folder: Path) -> str:
    """Return the name of the user; in a container it may be a number alone."""
    try:
        return folder.owner()
    except KeyError:
        return folder.name.rpartition("-")[2]


def _temporary() -> Path:
    """Return the same folder to all: tempfile.gettempdir() looks for another one while this is full."""
    return Path(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108 (what is put there is for this user alone)


def _obstacle() -> str:
    """Return why there is no room in it, or ""."""
    try:
        found = os.statvfs(_temporary())
    except OSError as error:
        return str(error)
    if found.f_flag & os.ST_RDONLY:
        return f"{_temporary()} is read-only: mount a tmpfs there"
    return "" if found.f_bavail else f"{_temporary()} is full"


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


def _born(pid: int) -> str:
    """Return when a process began, in the system's own count: 0 where the system does not tell, "" if it is gone."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        return "0"
    except OSError:  # it is gone, or another user's and so not the writer
        return ""
