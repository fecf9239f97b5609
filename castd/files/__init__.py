"""
The disk: names of files, directories that nothing leaves, uploads, access rules, netascii.
"""
