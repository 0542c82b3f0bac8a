"""What django-q2 says to a broker, in the words of worker.delivery."""

from sys import maxsize

from django_q.conf import Conf

from worker.delivery import Leasing


class Words:
    """What is the same whatever the broker."""

    def dequeue(self: Leasing) -> list[tuple[str, str | bytes]]:
        return [(delivery.receipt, delivery.payload) for delivery in self.claim(Conf.BULK, maxsize)]

    def acknowledge(self: Leasing, task_id: str) -> None:
        self.acknowledge_all([task_id])

    fail = acknowledge

    def queue_size(self: Leasing) -> int:
        return self.depth().waiting

    def lock_size(self: Leasing) -> int:
        depth = self.depth()
        return depth.due + depth.taken
