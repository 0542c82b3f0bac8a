"""Addresses of the page of the queue, beside those of the admin."""

from django.contrib import admin
from django.urls import path

from worker.queue import page

urlpatterns = [
    path("", page.in_time(admin.site.admin_view(page.queue)), name="queue"),
    path("now/", page.in_time(admin.site.admin_view(page.now)), name="queue_now"),
]
