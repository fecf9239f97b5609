"""
The other half of each conversation: which blocks have I, what do I say next.  Pure, like the casts.

L{Download<castd.collect.tftp.Download>} and L{Upload<castd.collect.tftp.Upload>} are what a client does,
L{Intake<castd.collect.intake.Intake>} is what a server does with a write request.
"""
