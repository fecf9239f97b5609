"""
Tells machines what to boot from this server: ProxyDHCP, beside any DHCP server.

It hands out no address.  All but L{castd.proxydhcp.service} is pure, and all of it uses only what every plugin may use.
"""
