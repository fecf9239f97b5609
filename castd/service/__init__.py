"""
Composes, runs, reloads and administers the server that a service file describes.
"""
