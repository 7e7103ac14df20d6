"""How Dagster sees a connection: assets, checks, metadata, resources, schedules, sensors."""
