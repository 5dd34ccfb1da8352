/* Socket.IO over HTTP long-polling: sessions that post and poll in turn, or that come and go.

     polling_load messages PORT COUNT SECONDS PID SIZE TOKENS
     polling_load sessions PORT COUNT SECONDS PID SIZE TOKENS

   Each of COUNT sessions has a connection of its own that is kept alive. It opens (GET), enters "/" with a token of the
   file (POST, GET), and then, in turn, posts an event "echo" of SIZE bytes that asks for an acknowledgement and polls
   until that has come. With "sessions" it posts a close packet instead and begins again, a session after the other.
   Prints what was done of it in SECONDS, once all were in, and what the process PID used of the CPU:

     polling: N msgs in S s = R/s; server cpu U us/msg (user U sys U), busy B%; lat us p50 L p99 L; errs N; client busy B%
     sessions: N in S s = R/s; server cpu U us/session; errs N; client busy B% */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, MAX_SESSIONS = 4096, MAX_LATENCIES = 1 << 22, PATH = 160 };
enum State { OPENING, ENTERING, ENTERED, POSTING, POLLING, LEAVING };

struct Session {
    int fd;
    enum State state;
    int pong; /* a ping came: the answer goes with the next post */
    uint64_t id;
    double asked;
    char path[PATH]; /* with the sid */
    char *received;
    size_t have, room;
};

static struct Session sessions[MAX_SESSIONS];
static int count, poller, with_messages, entered, begun;
static long done, errors;
static struct sockaddr_in address;
static char **tokens, *padding;
static int token_count, next_token, message_bytes;
static double *latencies;
static long latency_count;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fail(const char *what, const char *detail) {
    fprintf(stderr, "%s: %.300s\n", what, detail);
    exit(1);
}

static void cpu_of(const char *pid, double *user, double *sys) {
    char path[64], line[1024];
    snprintf(path, sizeof path, "/proc/%s/stat", pid);
    FILE *file = fopen(path, "r");
    unsigned long u = 0, s = 0;
    if (!file || !fgets(line, sizeof line, file)) fail("no process", pid);
    fclose(file);
    sscanf(strrchr(line, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &u, &s);
    *user = (double)u / (double)sysconf(_SC_CLK_TCK);
    *sys = (double)s / (double)sysconf(_SC_CLK_TCK);
}

static void read_tokens(const char *path) {
    FILE *file = fopen(path, "r");
    char line[4096];
    if (!file) fail("no tokens", path);
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        tokens = realloc(tokens, sizeof *tokens * (size_t)(token_count + 1));
        tokens[token_count++] = strdup(line);
    }
    fclose(file);
    if (!token_count) fail("no tokens", path);
}

/* -- out */

static void dial(struct Session *session) {
    const int on = 1;
    session->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(session->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (session->fd < 0 || connect(session->fd, (struct sockaddr *)&address, sizeof address)) fail("connect", strerror(errno));
    fcntl(session->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = session};
    epoll_ctl(poller, EPOLL_CTL_ADD, session->fd, &event);
    session->have = 0;
}

static void say(struct Session *session, const char *data, size_t size) {
    /* A request is smaller than the socket's buffer, and there is one at a time. */
    if (send(session->fd, data, size, MSG_NOSIGNAL) != (ssize_t)size) fail("send", strerror(errno));
}

static void get(struct Session *session, enum State state) {
    char request[512];
    int size = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n", session->path);
    session->state = state;
    say(session, request, (size_t)size);
}

static void post(struct Session *session, enum State state, const char *body) {
    static char request[1 << 17];
    int size = snprintf(request, sizeof request,
                        "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain;charset=UTF-8\r\n"
                        "Content-Length: %zu\r\n\r\n%s", session->path, strlen(body), body);
    session->state = state;
    say(session, request, (size_t)size);
}

static void open_session(struct Session *session) {
    snprintf(session->path, PATH, "/socket.io/?EIO=4&transport=polling");
    get(session, OPENING);
}

static void post_event(struct Session *session) {
    static char body[1 << 16];
    snprintf(body, sizeof body, "%s42%llu[\"echo\",\"%s\"]", session->pong ? "3\x1e" : "", (unsigned long long)++session->id, padding);
    session->pong = 0;
    session->asked = now_s();
    post(session, POSTING, body);
}

/* -- in */

/* Takes the body of a response out of what was received; 0: it is not whole yet. */
static size_t whole_response(struct Session *session, char **body, size_t *size) {
    char *start = session->received, *end = memmem(start, session->have, "\r\n\r\n", 4);
    if (!end) return 0;
    end += 4;
    if (memcmp(start + 9, "200", 3)) { errors++; fail("answered", start); }
    size_t rest = session->have - (size_t)(end - start);
    *body = end;
    for (char *line = start; line < end; line = (char *)memchr(line, '\n', (size_t)(end - line)) + 1) {
        if (!strncasecmp(line, "content-length:", 15)) {
            *size = (size_t)atol(line + 15);
            return rest < *size ? 0 : (size_t)(end - start) + *size;
        }
    }
    /* Chunks, which are put together in place. */
    char *from = end, *to = end;
    for (;;) {
        char *line = memmem(from, rest, "\r\n", 2);
        if (!line) return 0;
        size_t chunk = strtoul(from, NULL, 16), needed = (size_t)(line - from) + 2 + chunk + 2;
        if (rest < needed) return 0;
        if (!chunk) {
            *size = (size_t)(to - end);
            return (size_t)(from - start) + needed;
        }
        /* Nothing moves before all chunks are there. */
        char *last = memmem(from, rest, "0\r\n\r\n", 5);
        if (!last) return 0;
        memmove(to, line + 2, chunk);
        to += chunk;
        from += needed;
        rest -= needed;
    }
}

/* Looks through the packets of a payload; returns whether one begins with the mark. */
static int has_packet(struct Session *session, const char *body, size_t size, const char *mark) {
    int found = 0;
    size_t mark_size = strlen(mark);
    for (const char *at = body, *end = body + size; at < end;) {
        const char *next = memchr(at, '\x1e', (size_t)(end - at));
        size_t length = (size_t)((next ? next : end) - at);
        if (length == 1 && *at == '2') session->pong = 1;
        else if (length >= mark_size && !memcmp(at, mark, mark_size)) found = 1;
        at += length + 1;
    }
    return found;
}

static void take_open(struct Session *session, char *body, size_t size) {
    char *sid = memmem(body, size, "\"sid\":\"", 7), *end = sid ? memchr(sid + 7, '"', (size_t)(body + size - sid - 7)) : NULL;
    if (!end) fail("no session", body);
    snprintf(session->path, PATH, "/socket.io/?EIO=4&transport=polling&sid=%.*s", (int)(end - sid - 7), sid + 7);
    char connect[4200];
    snprintf(connect, sizeof connect, "40{\"token\":\"%s\"}", tokens[next_token++ % token_count]);
    post(session, ENTERING, connect);
}

static void take_entered(struct Session *session, char *body, size_t size) {
    if (!has_packet(session, body, size, "40{")) { get(session, ENTERED); return; }
    if (with_messages) {
        session->state = POLLING;
        if (entered++, begun) post_event(session);
    } else {
        post(session, LEAVING, "1");
    }
}

static void take_polled(struct Session *session, char *body, size_t size) {
    if (!has_packet(session, body, size, "43")) { get(session, POLLING); return; }
    if (begun && latency_count < MAX_LATENCIES) latencies[latency_count++] = now_s() - session->asked;
    done++;
    post_event(session);
}

static void take_response(struct Session *session, char *body, size_t size) {
    switch (session->state) {
    case OPENING: take_open(session, body, size); break;
    case ENTERING: get(session, ENTERED); break;
    case ENTERED: take_entered(session, body, size); break;
    case POSTING: get(session, POLLING); break;
    case POLLING: take_polled(session, body, size); break;
    case LEAVING: done++; open_session(session); break;
    }
}

static void receive(struct Session *session) {
    if (session->room - session->have < 1 << 14) session->received = realloc(session->received, session->room += 1 << 16);
    ssize_t got = recv(session->fd, session->received + session->have, session->room - session->have - 1, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        /* A server may close what is kept alive, behind a session that has left. */
        if (session->state != OPENING || session->have) fail("closed in state", (char[]){(char)('0' + session->state), 0});
        close(session->fd);
        dial(session);
        open_session(session);
        return;
    }
    session->have += (size_t)got;
    session->received[session->have] = 0;
    char *body;
    size_t size, used = whole_response(session, &body, &size);
    if (!used) return;
    if (used != session->have) fail("more than one answer", session->received);
    session->have = 0;
    take_response(session, body, size);
}

static void turn(int wait_ms) {
    struct epoll_event events[EVENTS];
    int n = epoll_wait(poller, events, EVENTS, wait_ms);
    for (int i = 0; i < n; i++) receive(events[i].data.ptr);
}

/* -- the whole */

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double at_percent(double percent) {
    return latency_count ? latencies[(long)((double)(latency_count - 1) * percent / 100)] * 1e6 : 0;
}

int main(int argc, char **argv) {
    if (argc != 8) { fprintf(stderr, "usage: polling_load messages|sessions PORT COUNT SECONDS PID SIZE TOKENS\n"); return 2; }
    with_messages = !strcmp(argv[1], "messages");
    address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    count = atoi(argv[3]);
    double seconds = atof(argv[4]);
    const char *pid = argv[5];
    message_bytes = atoi(argv[6]);
    if (count < 1 || count > MAX_SESSIONS || message_bytes < 1 || message_bytes > 1 << 15) return 2;
    read_tokens(argv[7]);
    padding = malloc((size_t)message_bytes + 1);
    memset(padding, 'x', (size_t)message_bytes);
    padding[message_bytes] = 0;
    latencies = malloc(sizeof *latencies * MAX_LATENCIES);
    poller = epoll_create1(0);
    for (int i = 0; i < count; i++) {
        dial(&sessions[i]);
        open_session(&sessions[i]);
    }
    double limit = now_s() + 60;
    while (with_messages ? entered < count : done < count) {
        turn(100);
        if (now_s() > limit) fail("not all sessions came in", "");
    }
    printf("connect: %d ready of %d\n", count, count);

    double user0, sys0, user1, sys1;
    struct rusage own0, own1;
    cpu_of(pid, &user0, &sys0);
    getrusage(RUSAGE_SELF, &own0);
    begun = 1;
    done = 0;
    double from = now_s(), until = from + seconds;
    if (with_messages) for (int i = 0; i < count; i++) post_event(&sessions[i]);
    while (now_s() < until) turn(10);
    double took = now_s() - from;
    long made = done;
    cpu_of(pid, &user1, &sys1);
    getrusage(RUSAGE_SELF, &own1);

    double user = user1 - user0, sys = sys1 - sys0;
    double own = (double)(own1.ru_utime.tv_sec - own0.ru_utime.tv_sec + own1.ru_stime.tv_sec - own0.ru_stime.tv_sec) +
                 (double)(own1.ru_utime.tv_usec - own0.ru_utime.tv_usec + own1.ru_stime.tv_usec - own0.ru_stime.tv_usec) / 1e6;
    if (with_messages) {
        qsort(latencies, (size_t)latency_count, sizeof *latencies, compare);
        printf("polling: %ld msgs in %.2f s = %.0f/s; server cpu %.3f us/msg (user %.3f sys %.3f), busy %.0f%%; lat us p50 %.0f p99 %.0f; errs %ld; client busy %.0f%%\n",
               made, took, (double)made / took, (user + sys) / (double)made * 1e6, user / (double)made * 1e6, sys / (double)made * 1e6,
               (user + sys) / took * 100, at_percent(50), at_percent(99), errors, own / took * 100);
    } else {
        printf("sessions: %ld in %.2f s = %.0f/s; server cpu %.1f us/session; errs %ld; client busy %.0f%%\n",
               made, took, (double)made / took, (user + sys) / (double)made * 1e6, errors, own / took * 100);
    }
    return 0;
}
