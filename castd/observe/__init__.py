"""
What is told to others: log lines, files, the journal, metrics, status, the service manager.
"""
