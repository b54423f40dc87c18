"""What reads the files."""

from deployment_files import checker

__all__ = ["checker"]
