/* Flood a fastim server: connections that write tiny packets as fast as they are taken, and throw away what comes.

     flood_load PORT COUNT TOKENS-FILE

   Prints "flooding" once all connections have said hello; runs until it is killed. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FRAMES = 4096, MAX_CONNS = 1024 };
static const char tiny[] = "[\"echo\",0]"; /* an event that wants no answer */
static uint8_t frames[FRAMES * (sizeof tiny + 6)];
static char received[1 << 16];

static size_t put_frame(uint8_t *p, const char *text, size_t n) {
    static const uint8_t mask[4] = {0x12, 0x34, 0x56, 0x78};
    size_t head = 2;
    p[0] = 0x81;
    p[1] = (uint8_t)(0x80 | (n < 126 ? n : 126));
    if (n >= 126) {
        p[2] = (uint8_t)(n >> 8);
        p[3] = (uint8_t)n;
        head = 4;
    }
    memcpy(p + head, mask, 4);
    for (size_t i = 0; i < n; i++) p[head + 4 + i] = (uint8_t)text[i] ^ mask[i & 3];
    return head + 4 + n;
}

static void expect(int fd, const char *mark) {
    size_t have = 0;
    while (!memmem(received, have, mark, strlen(mark))) {
        ssize_t n = recv(fd, received + have, sizeof received - have, 0);
        if (n <= 0) { fprintf(stderr, "no %s: %.*s\n", mark, (int)have, received); exit(1); }
        have += (size_t)n;
    }
}

static int dial(int port, const char *token) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    char head[512], hello[8192];
    uint8_t frame[8300];
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) { perror("connect"); exit(1); }
    int n = snprintf(head, sizeof head,
                     "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
                     "Sec-WebSocket-Protocol: fastim.v1.json\r\n\r\n", port);
    if (send(fd, head, (size_t)n, MSG_NOSIGNAL) != n) exit(1);
    expect(fd, "\r\n\r\n");
    n = snprintf(hello, sizeof hello, "[\"hello\",{\"token\":\"%s\"},1]", token);
    size_t size = put_frame(frame, hello, (size_t)n);
    if (send(fd, frame, size, MSG_NOSIGNAL) != (ssize_t)size) exit(1);
    expect(fd, "\"ok\"");
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int count = atoi(argv[2]);
    static struct pollfd fds[MAX_CONNS];
    static size_t offsets[MAX_CONNS];
    char line[4096];
    FILE *file = fopen(argv[3], "r");
    if (!file || count > MAX_CONNS) return 2;
    for (int i = 0; i < count; i++) {
        if (!fgets(line, sizeof line, file)) return 2;
        line[strcspn(line, "\n")] = 0;
        fds[i] = (struct pollfd){.fd = dial(atoi(argv[1]), line), .events = POLLIN | POLLOUT};
    }
    size_t one = put_frame(frames, tiny, sizeof tiny - 1), all = one * FRAMES;
    for (size_t at = one; at < all; at += one) memcpy(frames + at, frames, one);
    printf("flooding\n");
    fflush(stdout);
    for (;;) {
        poll(fds, (nfds_t)count, -1);
        for (int i = 0; i < count; i++) {
            if (fds[i].revents & POLLIN && recv(fds[i].fd, received, sizeof received, 0) == 0) return 1;
            if (!(fds[i].revents & POLLOUT)) continue;
            ssize_t n = send(fds[i].fd, frames + offsets[i], all - offsets[i], MSG_NOSIGNAL);
            if (n < 0 && errno != EAGAIN) return 1;
            if (n > 0) offsets[i] = (offsets[i] + (size_t)n) % all;
        }
    }
}
