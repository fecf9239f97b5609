"""
The process before this one and the process after it, while one takes over from the other.
"""
