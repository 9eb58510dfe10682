"""A turn's life: planned, opened under a lease, one model call after another with tools between, and its end."""
