"""Execution of rounds on this machine: client map, devices, processes, prefetching."""
