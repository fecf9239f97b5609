"""
Whatever comes to whatever port, castd says little, keeps little, and goes on.

C{CASTD_FUZZ} is the number of datagrams of one hunt, C{CASTD_SEED} where it begins; a failure names its seed.  The
command for ten million, and what was reached, is in docs/security.md.
"""
