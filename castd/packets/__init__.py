"""
Datagrams to values and back; every check is made here, once.
"""
