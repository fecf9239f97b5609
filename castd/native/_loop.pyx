# cython: language_level=3, binding=False, embedsignature=False
"""
Take the prepared steps of transfers without the interpreter, for all ports of an epoll set.

This is C{castd.net.epoll} and the fast lines of C{castd.server.fastpath.FastPath.datagramReceived} once more, compiled.
Nothing is decided here: a datagram that is the expected one, to the octet, takes one prepared step; whatever else
happens (another datagram, an error, a full socket, no step prepared) is handed to Python, with the state as it would be
if Python had taken all steps before.  The state lies in L{StepState} and nowhere else, so that is always so.

C{layOut} copies the blocks of a chunk between their headers, for C{castd.server.blockcache}.

Octets belong to Python objects that are held while they are sent or copied.  The interpreter's lock is released for each
epoll_wait; nothing else runs meanwhile that the steps depend on, as only the reactor's thread knows casts.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EINTR, errno
from libc.math cimport ceil
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

import os
import time


cdef extern from *:
    """
    #include <arpa/inet.h>
    #include <netinet/in.h>
    #include <sys/epoll.h>
    #include <sys/socket.h>
    #include <time.h>

    #ifndef CASTD_SOURCE
    #error "CASTD_SOURCE must be the digest of the .pyx file, see hatch_build.py"
    #endif
    """
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    struct timespec:
        long tv_sec
        long tv_nsec
    ctypedef unsigned int socklen_t
    struct in_addr:
        uint32_t s_addr
    struct sockaddr:
        pass
    struct sockaddr_in:
        unsigned short sin_family
        uint16_t sin_port
        in_addr sin_addr
    int AF_INET
    int CLOCK_MONOTONIC
    int CLOCK_REALTIME
    int EPOLLIN
    int MSG_DONTWAIT
    const char *CASTD_SOURCE
    int clock_gettime(int clock, timespec *now) nogil
    int epoll_wait(int descriptor, epoll_event *events, int most, int timeout) nogil
    ssize_t recv(int descriptor, void *buffer, size_t octets, int flags) nogil
    ssize_t send(int descriptor, const void *buffer, size_t octets, int flags) nogil
    ssize_t recvfrom(int descriptor, void *buffer, size_t octets, int flags, sockaddr *peer, socklen_t *length) nogil
    ssize_t sendto(
        int descriptor, const void *buffer, size_t octets, int flags, const sockaddr *peer, socklen_t length
    ) nogil
    int inet_pton(int family, const char *text, void *address)
    const char *inet_ntop(int family, const void *address, char *text, socklen_t length)
    uint16_t htons(uint16_t number)
    uint16_t ntohs(uint16_t number)
    char *PyBytes_AsString(object) except NULL
    Py_ssize_t PyBytes_Size(object) except -1


#: Digest of the source that this was built from.
SOURCE = CASTD_SOURCE.decode()

cdef enum:
    MOST_EVENTS = 16        # as castd.net.epoll.MOST_EVENTS
    MOST_OCTETS = 65536     # more than any datagram has

cdef enum Result:
    UNEXPECTED
    TAKEN
    REFUSED

#: Holds the datagram that is looked at: it is compared, or copied, before anything else runs.
cdef char received[MOST_OCTETS]

cdef object _time = time.time
cdef object _monotonic = time.monotonic


cdef double readClock(int clock) noexcept nogil:
    """Return the present instant, by this clock of the kernel."""
    cdef timespec now
    clock_gettime(clock, &now)
    return <double>now.tv_sec + <double>now.tv_nsec * 1e-9


cdef double instant(object seconds) except? -1:
    """Return what C{seconds()} returns; the clock of Twisted's reactors, time.time, is read without calling it."""
    if seconds is _time:
        return readClock(CLOCK_REALTIME)
    if seconds is _monotonic:
        return readClock(CLOCK_MONOTONIC)
    return seconds()


cdef class StepLists:
    """As C{castd.native.steps.StepLists}."""

    cdef public list answers
    cdef public list images


cdef class MasterSteps:
    """As C{castd.native.steps.MasterSteps}."""

    cdef public object draw
    cdef public object peer
    cdef public list noted
    cdef public double drawn
    cdef public double longest
    cdef public double until
    cdef public Py_ssize_t stop

    def __init__(self, peer, double until, double longest, draw):
        self.peer = peer
        self.until = until
        self.longest = longest
        self.stop = 0
        self.draw = draw
        self.drawn = 0.0
        self.noted = []


cdef class StepState:
    """As C{castd.native.steps.StepState}."""

    cdef public object due
    cdef public object _expected
    cdef public MasterSteps _master
    cdef public StepLists _prepared
    cdef public object _seconds
    cdef public object _sendStep
    cdef public double _interval
    cdef public double _steppedAt
    cdef public Py_ssize_t _steps

    def stepRefused(self, datagram, peer):
        """As C{castd.native.steps.StepState.stepRefused}."""


cdef class StepReader:
    """
    What the loop knows of the port of one transfer.  Called, it reads one datagram as Python does.
    """

    cdef StepState state
    cdef object send
    cdef object readable
    cdef object datagramReceived
    cdef object stepRefused
    cdef object receiveFailed
    cdef object peer
    cdef size_t largest

    def __init__(
        self, StepState state not None, send, readable, datagramReceived, stepRefused, receiveFailed, peer, largest
    ):
        self.state = state
        self.send = send
        self.readable = readable
        self.datagramReceived = datagramReceived
        self.stepRefused = stepRefused
        self.receiveFailed = receiveFailed
        self.peer = peer
        self.largest = min(largest, MOST_OCTETS)

    def __call__(self):
        return self.readable()


cdef Result takeStep(StepReader reader, int descriptor, Py_ssize_t octets, double now) except *:
    """
    Take the next step, if the datagram that was received is the expected one.

    @return: C{REFUSED}: it was, and the datagrams of the step could not be sent.
    """
    cdef StepState state = reader.state
    cdef StepLists prepared = state._prepared
    cdef object expected = state._expected
    cdef list answers
    cdef list images
    cdef Py_ssize_t steps = state._steps
    cdef Py_buffer view
    cdef ssize_t sent
    if not isinstance(expected, bytes) or state._sendStep is not reader.send or prepared is None:
        return UNEXPECTED
    if PyBytes_Size(expected) != octets or memcmp(PyBytes_AsString(expected), received, octets) != 0:
        return UNEXPECTED
    answers, images = prepared.answers, prepared.images
    if answers is None or images is None or not 0 <= steps < min(len(images), len(answers) - 1):
        return UNEXPECTED
    answer = answers[steps + 1]
    try:
        PyObject_GetBuffer(images[steps], &view, PyBUF_SIMPLE)
    except BaseException:
        return UNEXPECTED  # Python meets the same, and it is logged there
    sent = send(descriptor, view.buf, view.len, MSG_DONTWAIT)
    while sent < 0 and errno == EINTR:
        sent = send(descriptor, view.buf, view.len, MSG_DONTWAIT)
    PyBuffer_Release(&view)
    if sent < 0:
        return REFUSED
    state._steps = steps + 1
    state._expected = answer
    state._steppedAt = now
    state.due = now + state._interval
    return TAKEN


cdef int readOne(StepReader reader, int descriptor, object call) except -1:
    """Read one datagram: it takes a step, or Python gets it."""
    cdef ssize_t octets
    cdef Result result
    # The clock may be Python, so it is asked while nothing is in the buffer.
    cdef double now = instant(reader.state._seconds)
    octets = recv(descriptor, received, reader.largest, MSG_DONTWAIT)
    while octets < 0 and errno == EINTR:
        octets = recv(descriptor, received, reader.largest, MSG_DONTWAIT)
    if octets < 0:
        call(reader.receiveFailed, OSError(errno, os.strerror(errno)))
        return 0
    result = takeStep(reader, descriptor, octets, now)
    if result == TAKEN:
        return 0
    call(
        reader.stepRefused if result == REFUSED else reader.datagramReceived,
        PyBytes_FromStringAndSize(received, octets),
        reader.peer,
    )
    return 0


cdef bint pack(object peer, sockaddr_in *address) except -1:
    """Store host and port as the kernel has them.  -> whether the host is an IPv4 address."""
    host, port = peer
    memset(address, 0, sizeof(sockaddr_in))
    address.sin_family = AF_INET
    address.sin_port = htons(port)
    text = host.encode()
    return inet_pton(AF_INET, PyBytes_AsString(text), &address.sin_addr) == 1


cdef object unpack(sockaddr_in *address):
    """Return host and port, as C{socket.recvfrom} does."""
    cdef char text[16]
    inet_ntop(AF_INET, &address.sin_addr, text, sizeof(text))
    return (<bytes>text).decode(), ntohs(address.sin_port)


cdef class GroupReader:
    """
    What the loop knows of the port of one group, at an IPv4 address.  Called, it reads as Python does; so it is while
    the master is not in step.
    """

    cdef StepState state
    cdef object send
    cdef object readable
    cdef object datagramReceived
    cdef object stepRefused
    cdef object receiveFailed
    cdef size_t largest
    cdef sockaddr_in group
    cdef object peer
    cdef sockaddr_in master  # C{peer}, as the kernel has it

    def __init__(
        self, StepState state not None, readable, datagramReceived, stepRefused, receiveFailed, largest
    ):
        self.state = state
        self.readable = readable
        self.datagramReceived = datagramReceived
        self.stepRefused = stepRefused
        self.receiveFailed = receiveFailed
        self.largest = min(largest, MOST_OCTETS)

    def __call__(self):
        return self.readable()

    def aim(self, send, group):
        """
        Send the datagram of a step to this address, where C{StepState._sendStep} is this function, which does the same.
        """
        self.send = send if pack(group, &self.group) else None


cdef bint sentByMaster(GroupReader reader, MasterSteps master, sockaddr_in *peer, socklen_t length) except -1:
    """Return whether the address that a datagram has come from is that of the master."""
    if reader.peer is not master.peer:
        reader.peer = None
        if not pack(master.peer, &reader.master):
            return False
        reader.peer = master.peer
    return (
        length == sizeof(sockaddr_in)
        and peer.sin_family == AF_INET
        and peer.sin_port == reader.master.sin_port
        and peer.sin_addr.s_addr == reader.master.sin_addr.s_addr
    )


cdef Result takeMasterStep(
    GroupReader reader, int descriptor, Py_ssize_t octets, sockaddr_in *peer, socklen_t length, double now
) except *:
    """As C{FastPath._notedStep}; returns as C{takeStep}."""
    cdef StepState state = reader.state
    cdef StepLists prepared = state._prepared
    cdef MasterSteps master = state._master
    cdef Py_ssize_t steps = state._steps
    cdef double seconds = now - state._steppedAt
    cdef Py_buffer view
    cdef ssize_t sent
    cdef list answers, images
    if master is None or prepared is None or reader.send is None or state._sendStep is not reader.send:
        return UNEXPECTED
    answers, images = prepared.answers, prepared.images
    if answers is None or images is None or master.noted is None:
        return UNEXPECTED
    if not 0 <= steps < min(master.stop, len(images), len(answers)):
        return UNEXPECTED
    expected = answers[steps]
    if not isinstance(expected, bytes) or PyBytes_Size(expected) != octets:
        return UNEXPECTED
    if memcmp(PyBytes_AsString(expected), received, octets) != 0 or not sentByMaster(reader, master, peer, length):
        return UNEXPECTED
    if seconds > master.longest or now >= master.until:
        return UNEXPECTED
    try:
        PyObject_GetBuffer(images[steps], &view, PyBUF_SIMPLE)
    except BaseException:
        return UNEXPECTED  # Python meets the same, and it is logged there
    sent = sendto(descriptor, view.buf, view.len, MSG_DONTWAIT, <sockaddr *>&reader.group, sizeof(sockaddr_in))
    while sent < 0 and errno == EINTR:
        sent = sendto(descriptor, view.buf, view.len, MSG_DONTWAIT, <sockaddr *>&reader.group, sizeof(sockaddr_in))
    PyBuffer_Release(&view)
    if sent < 0:
        return REFUSED
    master.drawn = master.draw()
    master.noted.append(seconds)
    state._steps = steps + 1
    state._steppedAt = now
    state.due = now + state._interval
    return TAKEN


cdef int readMember(GroupReader reader, int descriptor, object call) except -1:
    """Read one datagram of a member of a group: it takes a step of the master, or Python gets it."""
    cdef sockaddr_in peer
    cdef socklen_t length = sizeof(sockaddr_in)
    cdef ssize_t octets
    cdef Result result
    if reader.state._master is None:
        call(reader)
        return 0
    # The clock may be Python, so it is asked while nothing is in the buffer.
    cdef double now = instant(reader.state._seconds)
    octets = recvfrom(descriptor, received, reader.largest, MSG_DONTWAIT, <sockaddr *>&peer, &length)
    while octets < 0 and errno == EINTR:
        octets = recvfrom(descriptor, received, reader.largest, MSG_DONTWAIT, <sockaddr *>&peer, &length)
    if octets < 0:
        call(reader.receiveFailed, OSError(errno, os.strerror(errno)))
        return 0
    result = takeMasterStep(reader, descriptor, octets, &peer, length, now)
    if result == TAKEN:
        return 0
    call(
        reader.stepRefused if result == REFUSED else reader.datagramReceived,
        PyBytes_FromStringAndSize(received, octets),
        unpack(&peer),
    )
    return 0


def readRounds(
    int epoll, list members not None, list requests not None, call,
    double begun, double until, double timeout, double wait, int few, double near, int mostVain,
):
    """As C{EpollSet._readRounds}, with the epoll set as a descriptor."""
    cdef epoll_event events[MOST_EVENTS]
    cdef int count, index, failed = 0
    cdef int milliseconds = <int>ceil(timeout * 1000)
    cdef int pause = <int>ceil(wait * 1000)
    cdef double now
    cdef int vain = 0
    cdef bint awake = False
    while True:
        with nogil:
            count = epoll_wait(epoll, events, MOST_EVENTS, 0 if awake else milliseconds)
            if milliseconds:
                while awake and count == 0 and readClock(CLOCK_MONOTONIC) - begun < near:
                    count = epoll_wait(epoll, events, MOST_EVENTS, 0)
                if awake and count == 0:
                    vain += 1
                    count = epoll_wait(epoll, events, MOST_EVENTS, milliseconds)
            if count < 0:
                failed = errno
        if milliseconds:
            awake = vain < mostVain and readClock(CLOCK_MONOTONIC) - begun < near
        if count < 0:
            if failed != EINTR:
                raise OSError(failed, os.strerror(failed))
            count = 0
        for index in range(count):
            # Looked up only now: what was called before may have closed the descriptor, and opened another by its number.
            if not 0 <= events[index].data.fd < len(members):
                continue
            member = members[events[index].data.fd]
            if type(member) is StepReader and events[index].events == <uint32_t>EPOLLIN:
                readOne(<StepReader>member, events[index].data.fd, call)
            elif type(member) is GroupReader and events[index].events == <uint32_t>EPOLLIN:
                readMember(<GroupReader>member, events[index].data.fd, call)
            else:
                call(member)
        now = readClock(CLOCK_MONOTONIC)
        if count == 0 or now >= until or len(requests):
            return count, begun, now
        begun = now
        milliseconds = pause if count <= few else 0


def layOut(bytes headers not None, content, Py_ssize_t count, Py_ssize_t blocksize):
    """
    Lay out blocks with their headers, one behind the other.

    @param headers: of all blocks, all of one length.
    @param content: a buffer with the octets of the blocks; the last block may have fewer octets than the others, or none.
    @param count: how many blocks there are.
    @return: the datagrams, as C{bytes}, which nobody else has seen while they are written.
    @raise ValueError: these are not so many blocks and headers.
    """
    cdef Py_buffer view
    cdef Py_ssize_t octets, gap, rest
    cdef char *source
    cdef char *header = PyBytes_AsString(headers)
    cdef char *end
    cdef bytes image
    PyObject_GetBuffer(content, &view, PyBUF_SIMPLE)
    try:
        octets = view.len
        if count < 1 or blocksize < 1 or PyBytes_Size(headers) % count or octets // blocksize not in (count, count - 1):
            raise ValueError("blocks and headers do not fit")
        if octets // blocksize == count and octets % blocksize:
            raise ValueError("more octets than blocks")
        gap = PyBytes_Size(headers) // count
        image = PyBytes_FromStringAndSize(NULL, gap * count + octets)
        source, end, rest = <char *>view.buf, PyBytes_AsString(image), octets
        while count:
            memcpy(end, header, gap)
            header, end, count = header + gap, end + gap, count - 1
            blocksize = min(blocksize, rest)
            if blocksize:
                memcpy(end, source, blocksize)
            source, end, rest = source + blocksize, end + blocksize, rest - blocksize
        return image
    finally:
        PyBuffer_Release(&view)
