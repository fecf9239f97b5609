"""
Decide which receiver has the turn, which blocks are sent, and when.  A cast knows block numbers and peers only: no
bytes, no clock, no randomness, no I/O.
"""
