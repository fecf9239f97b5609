"""
The other half of each conversation: which blocks have I, what do I say next.  Pure, like the casts.

L{TftpDownload<castd.receive.tftp.TftpDownload>} and L{TftpUpload<castd.receive.tftp.TftpUpload>} are what a client
does, L{UploadReceiver<castd.receive.upload.UploadReceiver>} is what a server does with a write request.
"""
