"""The index: all SQL of raypacs. ``writer`` is the master's, ``reader`` everybody's."""
