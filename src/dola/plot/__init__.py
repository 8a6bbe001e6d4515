"""Pictures of a trace: on a terminal, as a figure, as a page. All draw the same `LayerTrace`."""
