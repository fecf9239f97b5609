"""
The server that a service file describes: composed, run, reloaded and administered.
"""
