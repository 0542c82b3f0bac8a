# /// script
# dependencies = ["django==5.2.*", "django-q2[croniter]==1.11.1"]
# ///
"""What was queued before SECRET_KEY was changed cannot be read, although SECRET_KEY_FALLBACKS has the former key."""

import sys

from django.conf import settings
from django.core.signing import BadSignature

settings.configure(SECRET_KEY="former", Q_CLUSTER={"timeout": 5, "retry": 10})

from django_q.conf import Conf
from django_q.signing import SignedPackage

package = SignedPackage.dumps({"func": "core.tasks.count_words"})
Conf.SECRET_KEY = settings.SECRET_KEY = "new"  # as in a process that begins later
settings.SECRET_KEY_FALLBACKS = ["former"]
try:
    SignedPackage.loads(package)
except BadSignature as error:
    print(f"The fault is there: {error}")
else:
    sys.exit("The fault is gone.")
