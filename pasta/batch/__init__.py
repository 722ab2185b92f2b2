"""Thousands of CTs through the tasks: restartable, with one table of results and a worklist."""
