"""
Know clients by their requests, and do for each what it needs: profiles of the service file, and those of castd's own.
"""
