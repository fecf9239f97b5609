"""
Holds announcements of transports and content sources, from here and from every directory C{castd/plugins} on the path.

A directory elsewhere has no C{__init__.py}: this is the only one.
"""

from twisted.plugin import pluginPackagePaths

__path__.extend(pluginPackagePaths(__name__))
__all__: list[str] = []
