"""The sections of the report: each takes the reads that count and returns tables and figures."""
