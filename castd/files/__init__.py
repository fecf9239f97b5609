"""
Access files: their names, directories that no name leads out of, uploads, access rules, netascii.
"""
