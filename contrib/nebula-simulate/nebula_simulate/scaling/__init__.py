"""Scaling in virtual time: the policies that serve, on a fleet whose replicas they start and end, under a trace."""
