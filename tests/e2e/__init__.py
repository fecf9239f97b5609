"""Real clients, booting machines and lossy wires against a running castd, in network namespaces of their own."""
