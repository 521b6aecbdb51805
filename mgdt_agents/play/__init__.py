"""Watch an agent play: a wall of games in a window, in a video, or on a page."""

from mgdt_agents.play.wall import Wall, WallStep

__all__ = ["Wall", "WallStep"]
