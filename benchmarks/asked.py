"""What a system asks of its servers, by their own counts."""

import re
import socket
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

from benchmarks.bench import Run

LINE = re.compile(rb"^(\w+) (\d+/\d+) LOG:  (?:statement|execute)", re.MULTILINE)
REDIS = ("total_commands_processed", "total_net_input_bytes", "total_net_output_bytes")
UNLOGGED = {"PGOPTIONS": "-c log_statement=none"}
WAL = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint"


@dataclass(frozen=True)
class Asked:
    """Counts since a beginning."""

    queries: int  #: of PostgreSQL, with BEGIN and COMMIT
    transactions: int
    wal: int  #: bytes
    commands: int  #: of Redis
    bytes_in: int
    bytes_out: int

    def since(self, before: "Asked") -> "Asked":
        """Return what has come since."""
        return Asked(**{name: value - getattr(before, name) for name, value in asdict(self).items()})


def watch(run: Run) -> None:
    """Let PostgreSQL log what the processes ask that are yet to start.

    Its statistics would come late: what a process asks without touching a table is not counted before that touches one
    or ends, and an idle worker is one that does neither.
    """
    run.bench.execute(run.system.broker, f"ALTER DATABASE {run.database} SET log_statement = 'all'")


def asked(run: Run) -> Asked:
    """Return what was asked so far, without the looks themselves."""
    base = run.bench.base(run.system.broker)
    wal = run.ask(WAL, **UNLOGGED)
    log = (base.workplace.temporary / "postgresql.err").read_bytes()
    name = run.database.encode()
    transactions = [transaction for database, transaction in LINE.findall(log) if database == name]
    redis = info(base.broker["REDIS_URL"], "stats") if "REDIS_URL" in base.broker else dict.fromkeys(REDIS, 0)
    return Asked(len(transactions), len(set(transactions)), wal, *(redis[name] for name in REDIS))


def info(url: str, section: str) -> dict[str, int]:
    """Return Redis' numbers of a section; by hand, since its client would say more than one command."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(f"INFO {section}\r\n".encode())
        answer = b""
        while not answer.endswith(b"\r\n") or answer.count(b"\r\n") < 3:
            answer += connection.recv(65536)
    return {name: int(value) for name, value in re.findall(r"^(\w+):(\d+)\r$", answer.decode(), re.MULTILINE)}
