"""The router: which replica a request goes to, and what it weighs there."""
