"""Renders a trace on a terminal, as a figure, or as a page. All three draw the same `LayerTrace`."""
