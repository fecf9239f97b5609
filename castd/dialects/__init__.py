"""
Translate between protocols and casts, one module for each protocol.  Such a module provides the names C{Options} and
C{Dialect}.
"""
