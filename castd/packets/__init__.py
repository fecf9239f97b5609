"""
Parse datagrams into values, and build datagrams from values.  All checks of octets from the network are made here.
"""
