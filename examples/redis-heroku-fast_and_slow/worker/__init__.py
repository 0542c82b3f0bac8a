"""Background tasks, and what makes them safe to run.

To be used: `tasks` (@task), `schedules` (@schedule), `enqueue` (async_task() and many at once), and in tests `testing`;
`policy` and `retention` are behind them. What runs: `cluster`, the worker's process; `web`, what the site needs;
`development`, what `make run` needs. What is asked: `checks`, the system checks; `health`, by the probes; `admin`, by
people; `management`, from a shell.

It knows nothing of `config` and `core`. Where tasks wait is a matter of `broker` alone.
"""

__version__ = "1.0.0"
