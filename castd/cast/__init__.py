"""
The casts: whose turn it is, which blocks go out, and when.  Numbers and peers only: no bytes, no clock, no chance, no
I/O.
"""
