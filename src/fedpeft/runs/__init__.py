"""Runs on disk: what was set, what was measured, the adapters, and tables over many runs."""
