"""The admin API: what runs, why something does not, and changing it. Its own port, its own token."""
