"""What the work queue does with studies: one file a kind of work. No cluster in here."""
