"""The admin API, and a client for it."""
