"""
Dialects speak one protocol each.  The module of a dialect promises two names, C{Options} and C{Dialect}.
"""
