"""Alembic's environment; run by ``raypacs.index.engine.migrate``."""
