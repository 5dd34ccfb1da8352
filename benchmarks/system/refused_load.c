// refused_load PORT SECONDS: connect from 127.0.1.x again and again and count how often the server closes at once.
//
// So many connects are on their way at a time, each from the next of 254 source addresses, so that ports do not run
// out. A connection is over when the server has closed it; one that gets a byte is counted as answered.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define AT_A_TIME 128
#define ADDRESSES 254

static int epoll_fd, port;
static unsigned long opened, refused, answered, failed;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void open_one(void) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr = {htonl(0x7f000101 + opened++ % ADDRESSES)}};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct linger reset = {1, 0};
    struct epoll_event event = {EPOLLIN | EPOLLRDHUP, {.fd = fd}};
    if (fd < 0) {
        perror("socket");
        exit(1);
    }
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (bind(fd, (void *)&from, sizeof from) < 0) {
        perror("bind");
        exit(1);
    }
    if (connect(fd, (void *)&to, sizeof to) < 0 && errno != EINPROGRESS) {
        failed++;
        close(fd);
        return;
    }
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: refused_load PORT SECONDS\n");
        return 2;
    }
    port = atoi(argv[1]);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    double begin = now(), end = begin + atof(argv[2]), seconds;
    for (int i = 0; i < AT_A_TIME; i++) open_one();
    while (now() < end) {
        struct epoll_event events[AT_A_TIME];
        int count = epoll_wait(epoll_fd, events, AT_A_TIME, 100);
        for (int i = 0; i < count; i++) {
            char byte;
            if (recv(events[i].data.fd, &byte, 1, 0) > 0)
                answered++;
            else
                refused++;
            close(events[i].data.fd);
            open_one();
        }
    }
    seconds = now() - begin;
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    printf("refused: %lu in %.2f s = %.0f/s; answered %lu; failed %lu; client busy %.0f%%\n", refused, seconds,
           refused / seconds, answered, failed, cpu / seconds * 100);
    return 0;
}
