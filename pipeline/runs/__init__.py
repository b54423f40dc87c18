"""What a scheduler runs: what a run covers is told by its data interval, who it is by its name, and every step may be repeated.

It knows of no scheduler, and of no command.
"""
