"""Reports of evaluations.

writer: the report as a page, as Markdown and as tables.
tables: what stands in a report.
experiments: evaluation folders read back.
gallery: examples with their references and ground truth.
plots: plots by category, by number of instances, and of confusion.
published: the paper's results.
"""

from .. import lazy_names

__getattr__ = lazy_names(__name__, ".writer")
