"""What makes the queue safe to run: the worker's process, its checks and its probes.

It knows nothing of `config` and `core`. Where tasks wait is a matter of `broker.py`, and of what that imports alone.
"""
