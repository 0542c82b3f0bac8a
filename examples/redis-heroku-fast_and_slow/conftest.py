"""What the tests share: a queue in memory, a real worker, and somebody on the staff."""

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

pytest_plugins = ["worker.testing"]


@pytest.fixture
def staff(client: Client, db: None) -> Client:
    """Provide the browser of somebody on the staff, who needs no password here: to hash one takes long."""
    client.force_login(get_user_model().objects.create(username="ada", is_staff=True))
    return client
