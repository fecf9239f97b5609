"""
Provides what tests share.  A test imports helpers from here, and never from another test's file.

I{In memory, in virtual time:} the kit is L{castd.testing}: a network, its hosts, a site, a recording client.

 - C{server}: a whole server composed from a service file (C{Case}), and a client for it.
 - C{stage}: a real listener with its dialects on such a network: C{TftpStage}, C{GroupStage}, C{MtftpStage},
   C{SlamStage}.  Within C{with} it records the log; at the end the log must have no fault.  C{listener} makes the
   listener alone.
 - C{clients}: clients for a stage.  Each protocol has a file, with functions for a test that sends by hand (C{rrq},
   C{say}, C{download}, C{Member}, C{opened}) and with simulations of real clients (C{Simulated}, C{Machine}, C{Ipxe},
   C{Player}).  C{clients.ear} is a port that receives for them.  C{slam_client} shares no code with castd and is a
   program as well, as is C{sbroadcast_get}.
 - C{doctor}: a machine whose facts a test writes down, for the checks of C{castd doctor}.
 - C{pxe}: a server with a proxydhcp, from a service file; the packets of machines, recorded and made.
 - C{link}: two halves of a transfer face to face, with loss, delay and duplicates; no network, no listener.
 - C{cast_hall}: receivers around any cast, numbers only, for state machines.  C{slam_hall}: a crowd of SLAM clients
   around one Sweep and one wire, too many for a network.
 - C{hostile}: one server with every transport, on a network on which every source address can be forged; hunts on it.
   C{noise}: the datagrams of attackers.
 - C{matrix}: seeded runs, compared cell by cell with C{tests/runs.txt}.
 - C{vectors}: the datagrams and exchanges of C{tests/vectors}, as parameters.
 - C{log}: observes the log during a test.  The fixture C{events} uses it.

I{With real sockets of the loopback interface:}

 - C{fakes}: C{Reactor}, whose readers a test calls by hand; C{Hand}, a reactor with virtual time; C{Hearer}, a protocol
   that records what it receives.
 - C{disks}: directories whose disks a test holds in its hand.  All others are waited for in the test's own thread, by
   the fixture C{disksHere}.
 - C{faults}: makes system calls and methods of plugins fail, each with the errors that it can have.
 - C{world}: a whole castd in this process, with a client of each kind.

I{With processes:}

 - C{needs}: the requirements of a test.  C{run} runs a program, C{need} requires one; without it the test is skipped,
   and fails where C{CI=true}.
 - C{pages}: the commands of a page in docs/, for tests that run them.
 - C{jobs}: runs a program (C{Job}), runs castd from these sources (C{running}), waits for a condition (C{eventually}).
 - C{lab}: castd as a process (C{castd}, C{daemons}), network namespaces with a switch (C{hall}), losses, delays and
   captures on its wires (C{wires}), troubles with what they cost (C{cells}), other people's clients (C{clients}) and
   machines that boot (C{machines}).  C{tests/e2e/README.md} says how they go together.
 - C{slow_disk}: a program: a file system that answers as late as it is told to, by FUSE.

C{quick.slowBut} marks the cases of a matrix C{slow} but for a few: C{pytest -m "not slow"} is to take a minute or two.
"""
