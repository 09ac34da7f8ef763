"""Puts this folder on the import path, so that tests of every tier share the fakes beside it."""
