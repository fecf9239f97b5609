"""
Make files from templates, in processes of their own.
"""
