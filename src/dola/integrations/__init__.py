"""DoLa inside other tools: each module here needs the tool that it is named for."""
