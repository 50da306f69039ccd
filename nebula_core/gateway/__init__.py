"""The gateway: a control side that keeps the routing table and its workers, whose `data_path` carries the requests."""
