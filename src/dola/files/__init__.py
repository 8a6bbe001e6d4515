"""Files that are read and written: text, JSON, tables, settings."""
