"""Style of all plots: colors and figures."""

SERIES_COLORS = ("#3c6fb0", "#c9512b", "#4a9a5b", "#8061a5", "#8a6d3b", "#5a5a5a")


def new_figure(figsize):
    """An empty matplotlib Figure of (width, height) inches, unknown to pyplot."""
    from matplotlib.figure import Figure  # slow to import, and overlays do without it

    return Figure(figsize=figsize, layout="constrained")
