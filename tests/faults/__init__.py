"""What the fault suites share: a reactor by hand, a server on loopback, its clients, calls that can be made to fail."""
