"""The scheduler: turns model requests into placement plans."""
