"""The contract of worker.delivery.Leasing, which every broker keeps.

It is run in a baked project, against the project's own broker and the server that the environment names. Two brokers in
one process stand for two clusters: they share nothing but the server.
"""
