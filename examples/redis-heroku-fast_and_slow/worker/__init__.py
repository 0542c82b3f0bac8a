"""Background tasks, and what makes them safe to run.

To be used: `tasks` (@task), `schedules` (@schedule), `enqueue` (async_task() and many at once), and in tests `testing`;
`policy` and `retention` are behind them. What runs: `cluster`, the worker's process; `web`, what the site needs;
`development`, what `make run` needs. What is asked: `checks`, the system checks; `health`, by the probes; `queue` and
`admin`, by people; `management`, from a shell. What it tells: `logs`, `errors`, `traces`.

It knows nothing of `config` and `core`. Where tasks wait is a matter of `broker` alone. The site imports
nothing of `cluster`, but for tasks with the option `sync`, which it runs itself: what both need stands beside that.
"""

__version__ = "1.0.0"
