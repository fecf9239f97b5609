"""
What is on the disk: names, directories that nothing leaves, uploads, access rules, netascii.
"""
