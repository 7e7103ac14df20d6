"""Contains a module for each contender, which loads the benchmark server's rows into DuckDB as a whole process."""
