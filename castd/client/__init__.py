"""
Fetches and sends files over real sockets: the client behind C{castd get} and C{castd put}.
"""
