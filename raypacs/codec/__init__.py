"""Pixels in and out of their coded forms: pure and stateless, no files and no cluster."""
