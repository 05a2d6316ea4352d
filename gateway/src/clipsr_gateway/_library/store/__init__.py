"""LanceDB: tables, schema, writes, membership queries and clean-up."""
