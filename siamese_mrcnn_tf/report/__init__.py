"""Reports of evaluations.

writer: `write_report`: a page, Markdown, CSV, JSON and plots.
about: weights and data set in words.
tables: the sections and tables of a report.
experiments: evaluation folders, grouped into experiments.
gallery: examples with their references and ground truth.
plots: plots by category, by number of instances, of confusion, and of presence.
published: the paper's results.
"""

from .. import lazy_names

__getattr__ = lazy_names(
    __name__, {".writer": "PAGE_FILE REPORT_FILE class_rows figure_rows metric_rows number_rows write_report"}
)
