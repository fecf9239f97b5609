"""
Turn the configuration of another server into a service file, for C{castd import}.

Each server has a reader, a module with one function C{read}; L{readers} lists them.  A reader fills a L{draft.Draft}:
what castd does the same way becomes part of the service file, and everything else a note, with its line and what to do
about it.  Nothing is dropped in silence.  L{writer} writes the file.
"""
