"""Takes the time of the tasks of a benchmark."""
