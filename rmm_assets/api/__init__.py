"""How pages come in: a request to an answer, answers to proven-complete reads, reads to a dlt source. No Dagster here."""
