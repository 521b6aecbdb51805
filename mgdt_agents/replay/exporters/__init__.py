"""Stores in the formats of others, a module a format."""
