"""
The client: files fetched and sent over real sockets, as C{castd get} and C{castd put} do it.
"""
