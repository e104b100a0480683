"""A Claude Messages API on loopback that keeps its own bill: for the demo, for tests, for faults."""
