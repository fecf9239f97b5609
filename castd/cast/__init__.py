"""
Casts decide whose turn it is, which blocks go out, and when.  They know numbers and peers only: no bytes, no clock, no
chance, no I/O.
"""
