"""
The other half of each conversation: which blocks have I, what do I say next.  Pure, like the casts.

L{Download<castd.receive.tftp.Download>} and L{Upload<castd.receive.tftp.Upload>} are what a client does,
L{UploadReceiver<castd.receive.upload.UploadReceiver>} is what a server does with a write request.
"""
