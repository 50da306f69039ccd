"""The control plane's state: keys, values, and a live copy of both for the loops."""
