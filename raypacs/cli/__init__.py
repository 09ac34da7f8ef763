"""The command line: talks HTTP to a node, starts and stops nodes; no logic of its own."""

from raypacs.cli.app import main

__all__ = ["main"]
