"""Where tasks wait: the project's broker, which does what `Leasing` of `worker.delivery` says."""

from worker.broker.broker import Broker

__all__ = ["Broker"]
