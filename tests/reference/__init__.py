"""DoLa in float64, straight from the paper: the judge of every optimized path. Slow and plain on purpose."""
