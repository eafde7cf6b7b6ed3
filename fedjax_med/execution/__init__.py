"""How a round runs on this machine: client map, devices, processes, prefetching."""
