"""Models of the app."""

from django.contrib.auth.models import AbstractUser


class User(AbstractUser):
    """A user of the site: the project's own, since Django's could hardly be replaced once there are some."""
