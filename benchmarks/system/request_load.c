/* HTTP requests on kept connections, one at a time on each.

     request_load PORT COUNT SECONDS PID PATH [SIZE]

   COUNT connections ask for PATH again and again, by GET, or by POST with a body of SIZE bytes. Each answer must be a
   200 with a Content-Length. Prints what was answered in SECONDS, and what the process PID used of the CPU:

     requests: N in S s = R/s; server cpu U us/request (user U sys U), busy B%; client busy B% */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_COUNT = 1024, ROOM = 8192 };
struct Connection {
    int fd;
    size_t have;
    char received[ROOM];
};
static struct Connection connections[MAX_COUNT];
static char request[1 << 20];
static size_t request_size;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void server_cpu(int pid, double *user, double *system) {
    char path[64], line[2048];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    unsigned long u = 0, s = 0;
    if (!file || !fgets(line, sizeof line, file)) { perror(path); exit(1); }
    fclose(file);
    sscanf(strrchr(line, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &u, &s);
    *user = (double)u / (double)sysconf(_SC_CLK_TCK);
    *system = (double)s / (double)sysconf(_SC_CLK_TCK);
}

static void ask(struct Connection *it) {
    it->have = 0;
    if (send(it->fd, request, request_size, MSG_NOSIGNAL) != (ssize_t)request_size) { perror("send"); exit(1); }
}

/* Read what is there; 1 once the answer is whole. */
static int whole(struct Connection *it) {
    ssize_t n = recv(it->fd, it->received + it->have, ROOM - 1 - it->have, 0);
    if (n <= 0) { fprintf(stderr, "the server closed behind: %s\n", it->received); exit(1); }
    it->have += (size_t)n;
    it->received[it->have] = 0;
    char *body = strstr(it->received, "\r\n\r\n"), *length;
    if (!body) return 0;
    length = strcasestr(it->received, "\r\ncontent-length: ");
    if (strncmp(it->received, "HTTP/1.1 200 ", 13) || !length) {
        fprintf(stderr, "answered: %s\n", it->received);
        exit(1);
    }
    return (size_t)(body + 4 - it->received) + strtoul(length + 18, NULL, 10) == it->have;
}

int main(int argc, char **argv) {
    if (argc < 6 || atoi(argv[2]) > MAX_COUNT) {
        fprintf(stderr, "usage: request_load PORT COUNT SECONDS PID PATH [SIZE]\n");
        return 2;
    }
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    int count = atoi(argv[2]), pid = atoi(argv[4]), poller = epoll_create1(0), on = 1;
    size_t size = argc > 6 ? strtoul(argv[6], NULL, 10) : 0;
    if (size > sizeof request / 2) return 2;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    request_size = (size_t)snprintf(request, 1024, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nUser-Agent: load\r\nAccept: */*\r\n",
                                    size ? "POST" : "GET", argv[5], argv[1]);
    if (size) request_size += (size_t)sprintf(request + request_size, "Content-Type: text/plain;charset=UTF-8\r\nContent-Length: %zu\r\n", size);
    memcpy(request + request_size, "\r\n", 2);
    memset(request + request_size + 2, 'x', size);
    request_size += 2 + size;
    for (int i = 0; i < count; i++) {
        struct epoll_event event = {EPOLLIN, {.ptr = &connections[i]}};
        connections[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(connections[i].fd, (struct sockaddr *)&to, sizeof to)) { perror("connect"); return 1; }
        setsockopt(connections[i].fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        epoll_ctl(poller, EPOLL_CTL_ADD, connections[i].fd, &event);
        ask(&connections[i]);
    }
    double user, system, user_after, system_after, begin = now(), end = begin + atof(argv[3]), seconds;
    struct rusage before, after;
    unsigned long answered = 0;
    server_cpu(pid, &user, &system);
    getrusage(RUSAGE_SELF, &before);
    while (now() < end) {
        struct epoll_event events[MAX_COUNT];
        int ready = epoll_wait(poller, events, MAX_COUNT, 1000);
        for (int i = 0; i < ready; i++) {
            if (!whole(events[i].data.ptr)) continue;
            answered++;
            ask(events[i].data.ptr);
        }
    }
    seconds = now() - begin;
    server_cpu(pid, &user_after, &system_after);
    getrusage(RUSAGE_SELF, &after);
    user = (user_after - user) * 1e6;
    system = (system_after - system) * 1e6;
    double own = (double)(after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec - before.ru_stime.tv_sec)
               + (double)(after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec - before.ru_stime.tv_usec) / 1e6;
    printf("requests: %lu in %.2f s = %.0f/s; server cpu %.1f us/request (user %.1f sys %.1f), busy %.0f%%; client busy %.0f%%\n",
           answered, seconds, (double)answered / seconds, (user + system) / (double)answered, user / (double)answered,
           system / (double)answered, (user + system) / seconds / 1e4, own / seconds * 100);
    return 0;
}
