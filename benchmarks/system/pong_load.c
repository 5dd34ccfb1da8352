/* Hold WebSockets open and answer their pings, nothing else.

     pong_load PORT COUNT SECONDS PID [HELLO-FILE]

   Connects COUNT clients; with a file, each says hello with a line of it (a token), in turn. Then waits until the
   first ping has come to all, and prints what the process PID used of the CPU for the pings of SECONDS:

     pings: N in S s; server cpu U us/ping (user U sys U); client busy B% */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 512, MAX_COUNT = 1 << 16 };
static struct { int fd; uint32_t have; uint8_t kept[256]; int pinged; } peers[MAX_COUNT];
static uint8_t received[1 << 16];

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void cpu_of(const char *pid, double *user, double *sys) {
    char path[64], line[1024];
    snprintf(path, sizeof path, "/proc/%s/stat", pid);
    FILE *file = fopen(path, "r");
    unsigned long u = 0, s = 0;
    if (!file || !fgets(line, sizeof line, file)) { fprintf(stderr, "no process %s\n", pid); exit(1); }
    fclose(file);
    sscanf(strrchr(line, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &u, &s);
    *user = (double)u / (double)sysconf(_SC_CLK_TCK);
    *sys = (double)s / (double)sysconf(_SC_CLK_TCK);
}

static void expect(int fd, const char *mark) {
    size_t have = 0;
    while (!memmem(received, have, mark, strlen(mark))) {
        ssize_t n = recv(fd, received + have, sizeof received - have, 0);
        if (n <= 0) { fprintf(stderr, "no %s: %.*s\n", mark, (int)have, received); exit(1); }
        have += (size_t)n;
    }
}

static int dial(const struct sockaddr_in *address, const char *token) {
    static const char head[] =
        "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Protocol: fastim.v1.json\r\n\r\n";
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof *address)) { perror("connect"); exit(1); }
    if (send(fd, head, sizeof head - 1, MSG_NOSIGNAL) < 0) exit(1);
    expect(fd, "\r\n\r\n");
    if (token) {
        char hello[4096];
        uint8_t frame[4200] = {0x81, 0x80 | 126};
        int n = snprintf(hello, sizeof hello, "[\"hello\",{\"token\":\"%s\"},1]", token);
        frame[2] = (uint8_t)(n >> 8);
        frame[3] = (uint8_t)n; /* the mask is zero: the payload as it is */
        memcpy(frame + 8, hello, (size_t)n);
        if (send(fd, frame, 8 + (size_t)n, MSG_NOSIGNAL) < 0) exit(1);
        expect(fd, "\"ok\"");
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

/* Answer the pings of what was received; returns how many. Frames of a server, below 126 bytes or with 16 bits. */
static long answer(int who) {
    long pings = 0;
    size_t at = 0, have = peers[who].have;
    uint8_t *p = peers[who].kept, pong[131] = {0x8A};
    while (have - at >= 2) {
        size_t n = p[at + 1], head = 2;
        if (n == 126) {
            if (have - at < 4) break;
            n = (size_t)p[at + 2] << 8 | p[at + 3];
            head = 4;
        }
        if (head + n > sizeof peers[who].kept) { fprintf(stderr, "a frame of %zu bytes\n", n); exit(1); }
        if (have - at < head + n) break;
        if (p[at] == 0x88) { fprintf(stderr, "closed: %d\n", p[at + 2] << 8 | p[at + 3]); exit(1); }
        if (p[at] == 0x89) {
            pings++;
            pong[1] = (uint8_t)(0x80 | n);
            memcpy(pong + 6, p + at + head, n);
            if (send(peers[who].fd, pong, 6 + n, MSG_NOSIGNAL) < 0) exit(1);
        }
        at += head + n;
    }
    memmove(p, p + at, have - at);
    peers[who].have = (uint32_t)(have - at);
    return pings;
}

int main(int argc, char **argv) {
    if (argc < 5) { fprintf(stderr, "usage: pong_load PORT COUNT SECONDS PID [TOKENS]\n"); return 2; }
    int count = atoi(argv[2]), poller = epoll_create1(0);
    double seconds = atof(argv[3]);
    char token[2048];
    FILE *tokens = argc > 5 ? fopen(argv[5], "r") : NULL;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (count > MAX_COUNT) return 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    for (int i = 0; i < count; i++) {
        if (tokens && !fgets(token, sizeof token, tokens)) {
            rewind(tokens);
            if (!fgets(token, sizeof token, tokens)) return 1;
        }
        token[strcspn(token, "\n")] = 0;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(i / 20000));
        peers[i].fd = dial(&address, tokens ? token : NULL);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        epoll_ctl(poller, EPOLL_CTL_ADD, peers[i].fd, &event);
    }
    int begun = 0;
    long pings = 0;
    double from = now_s(), until = from + 600, user0 = 0, sys0 = 0, user1, sys1;
    struct rusage own0 = {0}, own1;
    for (int pinged = 0; now_s() < until;) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(poller, events, EVENTS, 100);
        for (int i = 0; i < n; i++) {
            int who = (int)events[i].data.u32;
            ssize_t got = recv(peers[who].fd, peers[who].kept + peers[who].have,
                               sizeof peers[who].kept - peers[who].have, 0);
            if (got == 0 || (got < 0 && errno != EAGAIN)) { fprintf(stderr, "lost a connection\n"); return 1; }
            if (got < 0) continue;
            peers[who].have += (uint32_t)got;
            long found = answer(who);
            pings += found;
            if (found && !peers[who].pinged) { peers[who].pinged = 1; pinged++; }
        }
        if (!begun && pinged == count) {
            begun = 1;
            pings = 0;
            cpu_of(argv[4], &user0, &sys0);
            getrusage(RUSAGE_SELF, &own0);
            from = now_s();
            until = from + seconds;
        }
    }
    if (!begun) { fprintf(stderr, "not all were pinged\n"); return 1; }
    double took = now_s() - from;
    cpu_of(argv[4], &user1, &sys1);
    getrusage(RUSAGE_SELF, &own1);
    double own = (double)(own1.ru_utime.tv_sec - own0.ru_utime.tv_sec + own1.ru_stime.tv_sec - own0.ru_stime.tv_sec) +
                 (double)(own1.ru_utime.tv_usec - own0.ru_utime.tv_usec + own1.ru_stime.tv_usec - own0.ru_stime.tv_usec) / 1e6;
    printf("pings: %ld in %.2f s; server cpu %.3f us/ping (user %.3f sys %.3f); client busy %.0f%%\n", pings, took,
           (user1 - user0 + sys1 - sys0) / (double)pings * 1e6, (user1 - user0) / (double)pings * 1e6,
           (sys1 - sys0) / (double)pings * 1e6, own / took * 100);
    return 0;
}
