"""Tells whether an engine is well by asking it over HTTP."""
