/* The least that a WebSocket server can do for a heartbeat: one epoll loop that pings each socket every interval.

     ping_loop PORT INTERVAL-MS

   Prints "listening" once it does. Answers any upgrade with a fixed 101, throws away what it reads, and writes a ping of 4 bytes to every socket at
   its own moment of the interval. No frames are parsed, no answers judged: a lower bound. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FDS = 1 << 17, EVENTS = 512, TICK_MS = 25 };
static const char answer[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                             "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
static int64_t due_ms[MAX_FDS]; /* 0: no WebSocket under this descriptor */
static char received[1 << 16];

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int main(int argc, char **argv) {
    if (argc != 3) { fprintf(stderr, "usage: ping_loop PORT INTERVAL-MS\n"); return 2; }
    const int64_t interval_ms = atoll(argv[2]);
    struct rlimit most = {MAX_FDS, MAX_FDS};
    if (setrlimit(RLIMIT_NOFILE, &most)) {
        getrlimit(RLIMIT_NOFILE, &most);
        most.rlim_cur = most.rlim_max;
        setrlimit(RLIMIT_NOFILE, &most);
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    const int on = 1;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) {
        perror("bind");
        return 1;
    }
    puts("listening");
    fflush(stdout);
    int poller = epoll_create1(0), highest = 0;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[EVENTS];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    int64_t next_ms = now_ms() + TICK_MS;
    for (uint32_t number = 0;;) {
        int64_t now = now_ms();
        int count = epoll_wait(poller, events, EVENTS, now < next_ms ? (int)(next_ms - now) : 0);
        now = now_ms();
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (fd >= MAX_FDS) { close(fd); continue; }
                    if (fd > highest) highest = fd;
                    event = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
                    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
                }
                continue;
            }
            ssize_t n = recv(fd, received, sizeof received, 0);
            if (n > 0 && !due_ms[fd]) {
                send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL);
                due_ms[fd] = now + 1 + (int64_t)(((uint64_t)fd * 2654435769u & 0xFFFFFFFF) * (uint64_t)interval_ms >> 32);
            } else if (n == 0 || (n < 0 && errno != EAGAIN)) {
                due_ms[fd] = 0;
                close(fd);
            }
        }
        if (now < next_ms) continue;
        next_ms = now + TICK_MS;
        for (int fd = 0; fd <= highest; fd++) {
            if (!due_ms[fd] || due_ms[fd] > now) continue;
            uint8_t ping[6] = {0x89, 4, (uint8_t)(number >> 24), (uint8_t)(number >> 16), (uint8_t)(number >> 8),
                               (uint8_t)number};
            number++;
            send(fd, ping, sizeof ping, MSG_NOSIGNAL);
            due_ms[fd] = now + interval_ms;
        }
    }
}
