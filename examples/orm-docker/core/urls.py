"""Addresses of the app."""

from django.urls import path

from core import views

urlpatterns = [
    path("", views.start, name="start"),
    path("tasks/", views.run, name="run"),
    path("tasks/<str:key>/", views.task, name="task"),
]
