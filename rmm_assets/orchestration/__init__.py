"""Turns a connection into Dagster assets, checks, metadata, resources, schedules and sensors."""
