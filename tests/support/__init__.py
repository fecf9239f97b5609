"""
What tests share.  A test imports what it needs from here, and never from another test's file.

I{In memory, in virtual time:} the kit is L{castd.testing}: a network, its hosts, a site, a recording client.

 - C{stage}: a real listener with its dialects on such a network: C{TftpStage}, C{GroupStage}, C{MtftpStage},
   C{SlamStage}.  Within C{with} it keeps the log; at the end no fault may stand in it.  C{listener} makes the listener
   alone.
 - C{clients}: who faces it.  Each protocol has a file, with what a test says by hand (C{rrq}, C{say}, C{download},
   C{Member}, C{opened}) and the clients of the field as simulations (C{Simulated}, C{Machine}, C{Ipxe}, C{Player}).
   C{clients.ear} is a port that hears for them.  C{slam_client} shares no code with castd and is a program as well, as
   is C{sbroadcast_get}.
 - C{link}: two halves of a transfer face to face, with loss, delay and duplicates; no network, no listener.
 - C{cast_hall}: receivers around any cast, numbers only, for state machines.  C{slam_hall}: a crowd of SLAM clients
   around one Sweep and one wire, too many for a network.
 - C{hostile}: one server with every transport and a network on which anybody may speak as anybody; hunts on it.
   C{noise}: what strangers say.
 - C{matrix}: seeded runs, compared cell by cell with C{tests/runs.txt}.
 - C{vectors}: the datagrams and exchanges of C{tests/vectors}, as parameters.
 - C{log}: what castd logs meanwhile.  The fixture C{events} is made of it.

I{With real sockets of the loopback interface:}

 - C{fakes}: C{Reactor}, that a test reads by hand; C{Hand}, whose time is virtual; C{Hearer}, a protocol that notes.
 - C{faults}: system calls and methods of plugins that are made to fail, and with what each may.
 - C{world}: a whole castd in this process, with a client of each kind.

I{With processes:}

 - C{needs}: what a test cannot do without.  C{run} runs a program, C{need} asks for it; without it the test is skipped,
   and fails where C{CI=true}.
 - C{jobs}: a program with its output and its end (C{Job}), castd from these sources (C{running}), C{eventually}.
 - C{lab}: castd as a process (C{castd}, C{daemons}), network namespaces with a switch (C{hall}), losses and captures
   on its wires (C{wires}), other people's clients (C{clients}) and machines that boot (C{machines}).
   C{tests/e2e/README.md} says how they go together.

C{quick.slowBut} marks the cases of a matrix C{slow} but for a few, so that C{pytest -m "not slow"} takes half a minute.
"""
