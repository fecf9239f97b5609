"""
castd delivers boot files over datagrams: to one machine, or to a whole hall at once.
"""

__version__ = "0.1.0"
