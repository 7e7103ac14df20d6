"""Measures speed and memory of this project, plain dlt, stock dagster-dlt, other tools and a hand-written ceiling."""
