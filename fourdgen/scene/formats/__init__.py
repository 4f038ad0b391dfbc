"""What a scene can be exported to. A new format is one file here and one row in the table of registry.py."""
