"""
What is on the wire: sockets, ports, the epoll set they are read by, timers.
"""
