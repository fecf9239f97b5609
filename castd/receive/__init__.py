"""
Decides, for the receiving side of a transfer, which blocks have come and which datagram goes out next.  Pure, like the
casts.

L{TftpDownload<castd.receive.tftp.TftpDownload>} and L{TftpUpload<castd.receive.tftp.TftpUpload>} are a client's halves
of a read and a write, L{UploadReceiver<castd.receive.upload.UploadReceiver>} is the server's half of a write.  The
client's halves of reads by a group are in L{castd.receive.group}, L{castd.receive.slam} and L{castd.receive.mtftp}.
Each provides L{ITransferHalf<castd.interfaces.ITransferHalf>}.
"""
