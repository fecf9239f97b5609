"""
A request becomes a delivery: the site, the listener of a request port, and the protocol of each cast and upload.
"""
