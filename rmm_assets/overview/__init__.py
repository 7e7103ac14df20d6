"""A connection's tables to pictures of the fleet: numbers in SQL, drawings, one HTML page. Knows nothing of Dagster."""
