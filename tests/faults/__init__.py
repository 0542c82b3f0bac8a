"""Faults: what the worker promises, with real processes and servers that are killed, stopped and cut off."""
