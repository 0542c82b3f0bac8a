"""Deploys as each platform does them, of real processes on this machine."""
