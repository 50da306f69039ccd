"""The simulated engine over HTTP, with vLLM's routes: real time drives the same engines that run in virtual time."""
