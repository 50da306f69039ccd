"""The public port: from a client's bytes to an engine's and back. No store, no FastAPI, no work that could be done beforehand."""
