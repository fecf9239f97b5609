"""
Reads the service file, checks it against the options of each plugin, and describes what can be in it.
"""
