"""Recorded play in the formats of others, brought into replay stores."""
