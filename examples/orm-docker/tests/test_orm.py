"""What is particular to a queue in the project's own database."""

from tests.test_broker import ask


def test_a_task_that_is_given_back_is_not_counted_as_one_whose_cluster_died(environment: dict[str, str]) -> None:
    code = """
from django_q.signing import SignedPackage
(broker,) = brokers("count", 1)
broker.enqueue(SignedPackage.dumps({"id": "a task"}))
counts = []
for delay in (0, 0.1, 0.1, 0):
    taken = take(broker, 1)
    counts.append(taken[0].count)
    broker.release(receipts(taken), delay=delay)
answer(counts)
"""
    assert ask(code, environment) == [[1, 1, 1, 1]]
