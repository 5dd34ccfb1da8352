"""The system calls of the epoll driver, and addresses."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from posix.uio cimport iovec

cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int count, int timeout)
    enum:
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
        EPOLLIN
        EPOLLOUT
        EPOLLERR
        EPOLLHUP
        EPOLLRDHUP

cdef extern from "sys/socket.h" nogil:
    struct sockaddr:
        uint16_t sa_family
    struct sockaddr_storage:
        uint16_t ss_family
    struct linger:
        int l_onoff
        int l_linger
    struct msghdr:
        void *msg_name
        uint32_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
    int accept4(int fd, sockaddr *address, uint32_t *size, int flags)
    ssize_t recv(int fd, void *buffer, size_t size, int flags)
    ssize_t send(int fd, const void *buffer, size_t size, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    int shutdown(int fd, int how)
    int setsockopt(int fd, int level, int name, const void *value, uint32_t size)
    enum:
        AF_INET
        AF_INET6
        SOCK_NONBLOCK
        SOCK_CLOEXEC
        MSG_NOSIGNAL
        MSG_DONTWAIT
        SHUT_WR
        SOL_SOCKET
        SO_LINGER

cdef extern from "netinet/in.h" nogil:
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        in_addr sin_addr
    struct sockaddr_in6:
        in6_addr sin6_addr

cdef extern from "arpa/inet.h" nogil:
    const char *inet_ntop(int family, const void *address, char *text, uint32_t size)
    int inet_pton(int family, const char *text, void *address)

cdef extern from "sys/ioctl.h" nogil:
    int ioctl(int fd, unsigned long request, void *value)
    enum:
        FIONREAD

cdef extern from "linux/sockios.h" nogil:
    enum:
        SIOCOUTQ

cdef extern from "fcntl.h" nogil:
    int fcntl(int fd, int command, ...)
    enum:
        F_GETFL
        F_SETFL
        O_NONBLOCK

cdef extern from "unistd.h" nogil:
    int close(int fd)


cdef inline void map_address(const sockaddr_storage *from_, uint8_t *address) noexcept nogil:
    """The 16 bytes of an IPv6 address; IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2); other families zero."""
    memset(address, 0, 16)
    if from_.ss_family == AF_INET:
        address[10] = address[11] = 0xFF
        memcpy(address + 12, &(<const sockaddr_in *>from_).sin_addr, 4)
    elif from_.ss_family == AF_INET6:
        memcpy(address, &(<const sockaddr_in6 *>from_).sin6_addr, 16)


cdef inline str address_text(const uint8_t *address):
    """Text of 16 bytes: dotted where they hold IPv4, "" where they are zero: no address."""
    cdef uint8_t mapped[16]
    cdef char text[64]
    memset(mapped, 0, 16)
    if memcmp(address, mapped, 16) == 0:
        return ""
    mapped[10] = mapped[11] = 0xFF
    if memcmp(address, mapped, 12) == 0:
        inet_ntop(AF_INET, address + 12, text, 64)
    else:
        inet_ntop(AF_INET6, address, text, 64)
    return text.decode("ascii")


cdef inline bint text_address(const char *text, uint8_t *address) noexcept:
    """The 16 bytes of a text; False if it is no address."""
    memset(address, 0, 16)
    if inet_pton(AF_INET6, text, address) == 1:
        return True
    if inet_pton(AF_INET, text, address + 12) != 1:
        return False
    address[10] = address[11] = 0xFF
    return True


cdef inline void reset_on_close(int fd) noexcept nogil:
    """Make the coming close a reset, so that nothing queued in the kernel lingers."""
    cdef linger off
    off.l_onoff = 1
    off.l_linger = 0
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof(off))


cdef inline bint set_nonblocking(int fd) noexcept nogil:
    cdef int flags = fcntl(fd, F_GETFL)
    return flags >= 0 and fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0
