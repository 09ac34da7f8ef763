"""Settings of the autopilot: what operators may say of thresholds, eviction, archiving, moving."""
