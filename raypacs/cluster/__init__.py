"""Everything that knows Ray: the master, dispatcher, listener and gateway actors, and tasks."""
