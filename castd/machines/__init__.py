"""
Know machines: the values that stand for them in names, what was heard of them, and what leases and the kernel say.
"""
