"""Reads and writes files: text, JSON, tables, settings."""
