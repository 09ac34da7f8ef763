"""Simulations and sizing for people: recorded loads read, policies run, tables and plots written.

Used by the command line, and by a process of its own (``python -m raypacs.simulating``) behind the
REST API, so that a gateway serves images meanwhile.
"""
