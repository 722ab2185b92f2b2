"""From an export of a reader study to tables, figures and a report; needs the extra `study`.

Nothing is imported here, so that `pasta.study` stays free of NumPy and pandas.
"""
