"""
Hands a running server over to a new process, for C{castd upgrade}, without losing a request or a transfer.

Theory of operation
===================

The running process, the I{predecessor}, starts the command that it was started by once more.  The new process, the
I{successor}, runs the code that is installed now and reads the service file anew.  A
L{channel<castd.upgrade.channel>} connects both: a pair of sockets.  The variable C{CASTD_ELDER} tells the successor
the descriptor of its end.  L{castd.upgrade.messages} declares every message on the channel; its words must not
change, since the two processes may run different versions of castd.

Each process has an object that stands for the other one: a L{Successor<castd.upgrade.successor.Successor>} in the
predecessor, a L{Predecessor<castd.upgrade.predecessor.Predecessor>} in the successor.  The
L{Handover<castd.upgrade.handover.Handover>} of a server holds them.

Both processes have the sockets of the request ports, and at most one process reads them::

    predecessor                                         successor

    reads          ---- sockets, begin ------------->   reads the service file, opens what else it needs
                   <------------- ready or refused --   (after refused it exits)
    stops reading, closes its admin ports
                   ---- state, bar, read ----------->   reads, opens its admin ports
                   <---------------------- serving --
    ends its       ---- here, left, freed, back, bar ->
    transfers      <------ give, unreachable, stop ----
    exits                                               reads alone

While neither process reads, requests wait in the sockets' buffers.  After C{read} the predecessor begins no transfer.
A transfer may live on the request port itself (single-port TFTP, MTFTP, SLAM).  Then the successor reads the datagrams
of its peer and passes them to the predecessor with C{give}; the answers leave through the predecessor's copy of the
socket.  The successor knows the peers from C{state}, C{here} and C{left}.  A datagram that turns out to be a new
request comes back with C{back}.

The successor sends to no group that the predecessor still sends to.  For C{limits.drain}, a request for such a group
is passed to the predecessor, where it may join the group; later requests wait in the successor for C{freed}.

If a process dies
=================

  - I{The successor, before} C{ready}.  The predecessor has never stopped reading.  C{castd upgrade} says how the
    successor ended.
  - I{The successor, after} C{ready}.  The predecessor waits until its child has exited.  Then it reads the sockets
    again, beginning with the requests that have waited there, and opens its admin ports.  Transfers of the successor
    are lost.
  - I{The predecessor, before} C{read}.  The successor has not taken over, and exits.  A supervisor starts castd anew.
  - I{The predecessor, after} C{read}.  Its transfers are lost.  The successor reads on.  Groups of the predecessor are
    free, and requests that wait for one are served.

A successor that is not ready in 25 seconds is killed; so is one that is ready and does not serve 4 seconds after
C{read}, which itself may take 4 seconds, and one that closes the channel and does not exit: two processes must never
read the same socket.

A process that cannot send a message, or read one, shuts the channel down: so it is closed for both.  Only a datagram
may be lost.

A predecessor that is stopped before C{ready} kills its child; one that is stopped later leaves its child alone.  A
successor that is stopped after C{read} sends C{stop} to the predecessor, and waits until that has ended.
"""
