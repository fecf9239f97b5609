"""
Reports the events and the state of castd: in log lines, files, the journal, metrics and status, and to the service
manager.
"""
