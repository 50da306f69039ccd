"""The gateway: a control side that keeps the routing table, and workers that carry the requests."""
