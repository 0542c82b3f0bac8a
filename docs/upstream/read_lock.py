# /// script
# dependencies = ["django==5.2.*", "django-q2[croniter]==1.11.1"]
# ///
"""A worker that is killed while it waits for a task takes the lock of the queue with it: no other gets a task again."""

import multiprocessing
import queue
import sys
import time

from django.conf import settings

settings.configure(SECRET_KEY="x", Q_CLUSTER={"timeout": 5, "retry": 10})

from django_q.queues import Queue

multiprocessing.set_start_method("fork")  # as django-q2 has it on Linux before Python 3.14
tasks = Queue()
worker = multiprocessing.Process(target=tasks.get)
worker.start()
while tasks._rlock.acquire(block=False):
    tasks._rlock.release()
    time.sleep(0.01)
worker.kill()
worker.join()
tasks.put("a task")
try:
    tasks.get(timeout=3)
except queue.Empty:
    sys.exit(print("The fault is there: a task is in the queue, and nobody can take it."))
sys.exit("The fault is gone.")
