"""One module a contender: each loads the benchmark server's rows into DuckDB as one whole process."""
