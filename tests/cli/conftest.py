"""Commands run in a small shop."""

from command_shell import built, columns, empty, shell

__all__ = ["built", "columns", "empty", "shell"]
