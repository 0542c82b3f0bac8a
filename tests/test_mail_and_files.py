"""Mail goes where EMAIL_URL says, and files that people upload into the bucket that is named, or a folder."""

import os
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import message_from_bytes
from pathlib import Path
from typing import ClassVar

from tests import servers
from tests.combinations import CHOICES, COMBINATIONS, Combination, each
from tests.processes import run
from tests.projects import PRODUCTION, Workplace

of_each_django = [next(it for it in COMBINATIONS if it.django_version == name) for name in CHOICES["django_version"]]
SEND = ["sendtestemail", "ada@example.com"]
#: Two files of one name, as the storage of the settings keeps them, and what a browser then gets.
STORE = """
import boto3, urllib.error, urllib.request
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage as files
boto3.client("s3").create_bucket(Bucket="uploads", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
names = [files.save("portrait.txt", ContentFile(content)) for content in (b"first", b"second")]
print(*[urllib.request.urlopen(files.url(name)).read().decode() for name in names])
try:
    urllib.request.urlopen(files.url(names[0]).partition("?")[0])
except urllib.error.HTTPError as error:
    print(error.code)
"""


class Letterbox(socketserver.StreamRequestHandler):
    """Takes a mail as a server of SMTP does."""

    letters: ClassVar[list[bytes]] = []

    def handle(self) -> None:
        """Answer each line; keep what comes after DATA."""
        self.wfile.write(b"220 here\r\n")
        for line in self.rfile:
            if line.upper().startswith(b"DATA"):
                self.wfile.write(b"354 write\r\n")
                self.letters.append(b"".join(iter(self.rfile.readline, b".\r\n")))
            self.wfile.write(b"250 well\r\n")


@contextmanager
def letterbox() -> Iterator[int]:
    """Serve one on a port of this machine."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Letterbox) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@each("", lambda combination: iter([()]), of_each_django)
def test_mail_goes_where_the_variable_says(combination: Combination, workplace: Workplace) -> None:
    with letterbox() as port:
        own = {"EMAIL_URL": f"smtp://127.0.0.1:{port}", "DEFAULT_FROM_EMAIL": "site@example.com"}
        workplace.manage(*SEND, environment={**PRODUCTION, **own})
        (letter,) = map(message_from_bytes, Letterbox.letters)
        Letterbox.letters.clear()
    assert (letter["From"], letter["To"]) == ("site@example.com", "ada@example.com")
    assert "To: ada@example.com" in workplace.manage(*SEND, environment={"DEBUG": "true"}), "not printed in development"


def test_files_go_into_the_bucket_that_is_named(bake: Callable[[Combination], Path], tmp_path: Path) -> None:
    with servers.sqs(tmp_path) as addresses:  # moto, which has S3 as well
        variables = {
            **{name: text for name, text in {**os.environ, **PRODUCTION, **addresses}.items() if name != "PYTHONPATH"},
            "AWS_DEFAULT_REGION": addresses["AWS_REGION"],
            "AWS_ENDPOINT_URL_S3": addresses["AWS_ENDPOINT_URL_SQS"],
            "AWS_STORAGE_BUCKET_NAME": "uploads",
            "DJANGO_SETTINGS_MODULE": "config.settings",
        }
        printed = run([sys.executable, "-c", STORE], bake(COMBINATIONS[0]), variables)
    assert printed.splitlines() == ["first second", "403"], "a file has replaced its namesake, or is shown to all"
