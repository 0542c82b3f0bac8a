"""What each platform does when it starts, probes and replaces processes: a row each. docs/hosting/ has it in prose.

What its files say (variables, commands, windows) is not here: it is read from the baked project.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto


class Order(Enum):
    """How a platform replaces the old version's processes by the new one's."""

    START_FIRST = auto()  #: the new ones start; once they are well, visitors go there, and the old ones are stopped
    AT_ONCE = auto()  #: the old ones are stopped while the new ones start; visitors wait
    STOP_FIRST = auto()  #: one after the other is stopped and started anew
    WEB_FIRST = auto()  #: web as in START_FIRST, and then the others as in STOP_FIRST


@dataclass(frozen=True)
class Facts:
    """How a platform treats the processes of a project."""

    broker: str  #: of the project that is deployed: one each, so that all are there
    host: str  #: the name by which visitors ask
    probe: str  #: the path that its probe of web asks for, over plain HTTP
    probe_host: str  #: with this Host header
    order: Order
    variables: Mapping[str, str] = field(default_factory=dict)  #: that it sets, besides PORT
    given: Mapping[str, str] = field(default_factory=dict)  #: that DEPLOY.md has the user set
    to_every_process: bool = False  #: whether SIGTERM goes to all, or to the main process
    twice: bool = False  #: whether it comes a second time while the process is stopping
    queues: str = "single"  #: of the project
    webs: int = 1  #: machines for web
    runs_commands: bool = False  #: whether its probe of a worker is a command in the container
    address: str = "127.0.0.1"  #: over which it reaches web


PLATFORMS = {
    "docker": Facts(
        broker="orm",
        host="www.example.com",
        probe="/livez",
        probe_host="127.0.0.1:8000",
        order=Order.WEB_FIRST,
        given={"ALLOWED_HOSTS": "www.example.com"},
        runs_commands=True,
    ),
    "heroku": Facts(
        broker="redis",
        host="my-project-0123456789ab.herokuapp.com",
        probe="/livez",  # Heroku has no probe: it looks whether the port is bound
        probe_host="my-project-0123456789ab.herokuapp.com",
        order=Order.AT_ONCE,
        variables={"DYNO": "run.1", "WEB_CONCURRENCY": "2", "FORWARDED_ALLOW_IPS": "*"},
        given={"ALLOWED_HOSTS": ".herokuapp.com"},
        to_every_process=True,
        twice=True,
        address="::1",
    ),
    "render": Facts(
        broker="mongodb",
        host="my-project-web.onrender.com",
        probe="/livez",
        probe_host="my-project-web.onrender.com",
        order=Order.START_FIRST,
        variables={"RENDER": "true", "RENDER_EXTERNAL_HOSTNAME": "my-project-web.onrender.com"},
        to_every_process=True,  # not documented: the worse of both
    ),
    "fly": Facts(
        broker="sqs",
        host="my-project.fly.dev",
        probe="/livez",
        probe_host="172.19.17.130:8000",
        order=Order.STOP_FIRST,
        variables={"FLY_APP_NAME": "my-project"},
        webs=2,
    ),
    "railway": Facts(
        broker="redis",
        host="my-project.up.railway.app",
        probe="/readyz",
        probe_host="healthcheck.railway.app",
        order=Order.START_FIRST,
        queues="fast_and_slow",
        variables={"RAILWAY_ENVIRONMENT_NAME": "production", "RAILWAY_PUBLIC_DOMAIN": "my-project.up.railway.app"},
        address="::1",
    ),
    "dokku": Facts(
        broker="orm",
        host="www.example.com",
        probe="/readyz",
        probe_host="172.17.0.5:5000",
        order=Order.START_FIRST,
        queues="fast_and_slow",
        variables={"DYNO": "web.1"},
        given={"ALLOWED_HOSTS": "www.example.com"},
        twice=True,
        runs_commands=True,
    ),
    "digitalocean": Facts(
        broker="mongodb",
        host="my-project-abcde.ondigitalocean.app",
        probe="/livez",
        probe_host="10.244.3.7:8000",
        order=Order.START_FIRST,
        queues="fast_and_slow",
        given={"ALLOWED_HOSTS": "my-project-abcde.ondigitalocean.app"},  # the value of ${APP_DOMAIN}
        to_every_process=True,  # not documented: the worse of both
    ),
    "kubernetes": Facts(
        broker="sqs",
        host="www.example.com",
        probe="/readyz",
        probe_host="10.244.0.17:8000",
        order=Order.START_FIRST,
        variables={"KUBERNETES_SERVICE_HOST": "10.96.0.1"},
        runs_commands=True,
    ),
}
