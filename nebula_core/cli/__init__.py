"""The `nebula` command."""

from nebula_core.cli.app import main

__all__ = ["main"]
