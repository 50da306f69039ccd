"""Serves engines that already run somewhere else."""
