"""
Finds out what on this machine, and around it, keeps a service file from being served: C{castd doctor}.

Each check is a function from a L{Subject<castd.doctor.findings.Subject>} and a
L{IMachine<castd.doctor.machine.IMachine>} to findings.  C{examine} has the list of them, and runs each in a process of
its own.
"""
