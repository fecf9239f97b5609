"""
The command C{castd}: what is typed at a terminal, and what is shown there.
"""
