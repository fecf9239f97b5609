"""
Reports what castd does: in log lines, files, the journal, metrics and status, and to the service manager.
"""
