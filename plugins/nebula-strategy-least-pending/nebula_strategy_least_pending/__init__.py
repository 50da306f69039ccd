"""Routes each request to the replica with the fewest requests on it."""
