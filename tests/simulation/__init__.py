"""The whole of Penstock under a deterministic scheduler: real classes, simulated store, log, clock, processes and network.

One seed is one run. It tells nothing of how the product is built but which modules start threads or read a clock.
"""
