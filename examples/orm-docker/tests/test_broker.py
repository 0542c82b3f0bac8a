"""The broker, on a server of its own."""

import json

from tests.processes import manage

TAKE_TURNS = """
import json
from django_q.brokers import get_broker

broker = get_broker("tests")
broker.ping()
for number in range(3):
    broker.enqueue(f"task {number}")
sizes = [broker.queue_size()]
taken = []
while len(taken) < 3:
    taken += broker.dequeue() or []
sizes.append(broker.queue_size())
for receipt, _ in taken:
    if receipt:
        broker.acknowledge(receipt)
locked = broker.lock_size()
broker.enqueue("one more")
broker.delete_queue()
texts = [payload.decode() if isinstance(payload, bytes) else payload for _, payload in taken]
print(json.dumps([texts, sizes, locked or 0, get_broker().list_key == broker.list_key]))
"""


def test_tasks_are_taken_once_and_in_order(environment: dict[str, str]) -> None:
    done = manage("shell", "--no-imports", "-c", TAKE_TURNS, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [["task 0", "task 1", "task 2"], [3, 0], 0, False]
