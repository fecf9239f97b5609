"""
Turn datagrams into values and back; every check is made here, once.
"""
