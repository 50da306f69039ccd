"""The `nebula` command."""
