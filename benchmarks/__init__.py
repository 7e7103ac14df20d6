"""Speed and memory of this project beside plain dlt, stock dagster-dlt, peers and a hand-written ceiling."""
