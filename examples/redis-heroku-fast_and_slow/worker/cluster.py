"""The cluster, safe under the signals that platforms send.

django-q2 1.11.1 gives SIGTERM its default meaning in all processes but the main one. Heroku, systemd, honcho and
`kill -TERM -PGID` send it to every process: they die in the middle of their tasks, and the main process waits for
ever for the sentinel that no longer answers (https://github.com/django-q2/django-q2/issues/346). Here the main
process alone acts on it, and stops the others in order. This file can go when a cluster of plain `qcluster` ends
after SIGTERM to its whole process group.
"""

import signal
from types import FrameType
from typing import Any

from django_q import cluster
from django_q.conf import Conf

from worker.heartbeat import Heartbeat


def _leave_to_main(signum: int, frame: FrameType | None) -> None:
    """Do nothing. SIG_IGN would do the same here, but programs that a task starts would inherit it."""


class Sentinel(cluster.Sentinel):  # type: ignore[misc]
    """The process that watches over workers, pusher and monitor, and forks them."""

    def start(self) -> None:
        """Start the others, which inherit the handler, and watch over them until the main process says stop."""
        signal.signal(signal.SIGTERM, _leave_to_main)
        self.heartbeat = Heartbeat(Conf.CLUSTER_NAME)
        super().start()

    def stop(self) -> None:
        """Stop the others, once the tasks that they have taken are done."""
        super().stop()
        self.heartbeat.stop()

    def status(self) -> str:
        """Return the state, and beat: the guard asks for it in each turn, and calls nothing else that could."""
        self.heartbeat.beat()
        return str(super().status())

    def spawn_pusher(self) -> Any:
        """Start the pusher with a connection of its own.

        It would inherit this process's, and read answers that are meant for others: seen with SQS and django-q2
        1.11.1 on a server that keeps connections open.
        """
        return self.spawn_process(cluster.pusher, self.task_queue, self.event_out)

    def spawn_monitor(self) -> Any:
        """Start the monitor with a connection of its own, as the pusher."""
        return self.spawn_process(cluster.monitor, self.result_queue)

    def reincarnate(self, process: Any) -> None:
        """Replace a process that ended, or a worker whose task ran out of time.

        Upstream ends such a worker by SIGTERM, which it now leaves to the main process. One that has noticed
        itself is given two seconds to hand on its result.
        """
        if process not in (self.monitor, self.pusher) and process.timer.value == 0:
            process.join(2)
            process.kill()
        super().reincarnate(process)
