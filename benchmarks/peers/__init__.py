"""Other people's rasterizers, behind the call that speed.py times. Their sources are given, never kept here."""
