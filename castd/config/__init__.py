"""
Reads the service file, checks it against the options of each plugin, and describes the options.
"""
