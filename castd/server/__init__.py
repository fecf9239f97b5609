"""
Serve requests: the site, the listener of a request port, and the protocol of each cast and upload.
"""
