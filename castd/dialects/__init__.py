"""
The dialects: each module promises two names, C{Options} and C{Dialect}.
"""
