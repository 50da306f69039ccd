"""Runs GGUF models with llama.cpp, from the wheel `xllamacpp`."""
