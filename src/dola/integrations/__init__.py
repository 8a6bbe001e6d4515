"""DoLa inside other tools. Each module here requires the tool that it is named after."""
