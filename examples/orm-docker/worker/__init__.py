"""What makes the queue safe to run: the worker's process, its checks and its probes.

It knows nothing of `config` and `core`, and is the same in every project but for the one file `broker.py`.
"""
