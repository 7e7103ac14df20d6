"""How rows land: bodies to Arrow, Arrow to tables, tables to what is in them. Knows no HTTP and no Dagster."""
