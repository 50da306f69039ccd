"""Reads the load of llama.cpp engines."""
