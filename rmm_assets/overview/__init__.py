"""Charts a fleet from a connection's tables: numbers from SQL, SVG images and one HTML page. Does not use Dagster."""
