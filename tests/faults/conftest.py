"""Commands run in a small shop."""

from command_shell import built, empty, shell

__all__ = ["built", "empty", "shell"]
