"""Runs engines as child processes that outlive the daemon."""
