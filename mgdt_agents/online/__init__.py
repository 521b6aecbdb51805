"""Learners that play: they learn a game online, and what they play is kept."""
