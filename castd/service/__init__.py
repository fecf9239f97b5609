"""
A service file becomes a running server: built, reloaded, administered, stopped.
"""
