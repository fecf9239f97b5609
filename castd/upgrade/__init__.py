"""
C{castd upgrade}: a new process takes over from a running one, and no request and no transfer is lost.

Theory of operation
===================

The running process, the I{predecessor}, starts the same command again.  This finds the code and the service file of
now.  The new process is the I{successor}.  Between both is a L{channel<castd.upgrade.channel>}, a pair of connected
sockets whose descriptor the successor finds by the variable C{CASTD_ELDER}.  Every message on it is declared in
L{castd.upgrade.messages}; its words must not change, since the two processes run different versions of castd.

Each class is one process as the other one sees it: L{Successor<castd.upgrade.successor.Successor>} runs in the
predecessor, L{Predecessor<castd.upgrade.predecessor.Predecessor>} runs in the successor.  A
L{Handover<castd.upgrade.handover.Handover>} holds both for one server.

Both processes have the sockets that requests come to, and at most one of them reads::

    predecessor                                         successor

    reads          ---- sockets, begin ------------->   reads the service file, opens what else it needs
                   <------------- ready or refused --   (after refused it exits)
    stops reading, closes its admin ports
                   ---- state, bar, read ----------->   reads, opens its admin ports
                   <---------------------- serving --
    ends its       ---- here, left, freed, back, bar ->
    transfers      <------ give, unreachable, stop ----
    exits                                               reads alone

While nobody reads, requests wait in the sockets' buffers.  After C{read} the predecessor begins nothing new.  A
transfer may live on the request port itself (single-port TFTP, MTFTP, SLAM).  The successor reads its datagrams and
passes them to the predecessor with C{give}; the answers leave through the predecessor's copy of the socket.  The
successor knows the peers from C{state} and from C{here} and C{left}.  A datagram that turns out to be a new request
comes back with C{back}.

The successor sends to no group that the predecessor still sends to.  A request for such a group is given to the
predecessor, where it may join, for C{limits.drain}; later ones wait in the successor for C{freed}.

If a process dies
=================

  - I{The successor, before} C{ready}.  The predecessor has never stopped reading.  C{castd upgrade} says how the
    successor ended.
  - I{The successor, after} C{ready}.  The predecessor waits until its child has exited.  Then it reads again, what has
    waited in the sockets first, and opens its admin ports.  Transfers of the successor are lost.
  - I{The predecessor, before} C{read}.  The successor has taken over nothing, and exits.  A supervisor starts castd
    anew.
  - I{The predecessor, after} C{read}.  Its transfers are lost.  The successor reads on.  Groups of the predecessor are
    free, and requests that wait for one are served.

A successor that is not ready in 25 seconds is killed, and so is one that closes the channel and stays: never shall two
processes read.

A predecessor that is told to stop before C{ready} kills its child; afterwards only the predecessor ends.  A successor
that is told to stop after C{read} tells the predecessor to C{stop}, and waits for it.
"""
