"""gunicorn's log through Django's LOGGING.

gunicorn gives its loggers handlers of their own, in a format of their own. This leaves them without any, so that
its lines go where all others go. It can go when gunicorn has an option for that; `logconfig_dict` has none on the
command line.
"""

import logging

from gunicorn import glogging
from gunicorn.config import Config


class Logger(glogging.Logger):  # type: ignore[misc]
    """Hands each record on to the root logger."""

    def setup(self, cfg: Config) -> None:
        """Set levels as gunicorn does, and drop the handlers that it adds."""
        super().setup(cfg)
        for log in (self.error_log, self.access_log):
            log.handlers.clear()
            log.propagate = True
        if not cfg.accesslog:
            self.access_log.setLevel(logging.CRITICAL)
