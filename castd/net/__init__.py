"""
Access the network: sockets, ports, the epoll set that reads them, and timers.
"""
