"""The files that a scene can be exported to, one module each. The table of them is in playback/formats.py."""
