"""A project with the other queues, for benchmarks."""
