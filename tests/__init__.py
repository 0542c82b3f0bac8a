"""Tests of the template: what it bakes, what it refuses, and whether what it bakes runs."""
