"""What the Redis broker makes of a URL."""

import pytest

from worker.broker import connection_options


@pytest.mark.parametrize(
    ("url", "dyno", "verified"),
    [
        ("rediss://:pw@host:6379", "web.1", False),
        ("rediss://:pw@host:6379?ssl_cert_reqs=required", "web.1", True),
        ("rediss://:pw@host:6379", "", True),
        ("redis://host:6379/0", "web.1", True),
    ],
)
def test_only_herokus_own_certificates_are_not_verified(
    url: str, dyno: str, verified: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DYNO", raising=False)
    if dyno:
        monkeypatch.setenv("DYNO", dyno)
    assert ("ssl_cert_reqs" not in connection_options(url)) is verified
