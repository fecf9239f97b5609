"""
The service file: read, checked against the options of each plugin, and described.
"""
