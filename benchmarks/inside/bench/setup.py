"""Prints what django.setup() has taken, as JSON: `python -m bench.setup`."""

import json
import time
from pathlib import Path

begin = time.process_time()
import django  # noqa: E402

django.setup()
took = time.process_time() - begin
lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
taken = sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))
print(json.dumps({"ms of CPU": took * 1000, "MiB of its own": taken / 1024}))
