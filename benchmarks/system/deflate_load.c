/* Fan-out with permessage-deflate: publish JSON from each connection in turn, count the deliveries at the receivers.

     deflate_load --port P --n N [--size B] [--secs S] [--window W] [--pid PID]
                  [--path P] [--proto SUBPROTOCOL] [--hello TEXT --tokens FILE] [--ready TEXT] [--pre TEXT] [--post TEXT]

   The options are those of the lab's wsload: W publications are in flight; %s in --hello is the connection's token; a
   frame with the --ready text makes a connection ready; --pre and --post stand around what is published, which is the
   inside of a JSON object: a marker with a time stamp and rows of B bytes in all.

   Each delivery is inflated and its marker read. A server that compresses once for all recipients sends each of them
   the same bytes: with server_no_context_takeover, a frame that equals one of the last 256 inflated ones byte for byte
   is taken to say the same, which keeps this generator from being what is measured. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
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
#include <zlib.h>

enum { READ_BYTES = 1 << 18, INFLATED_BYTES = 1 << 20, KNOWN = 256, MARK = 18 };

typedef struct {
    int fd, upgraded, ready, fresh; /* fresh: no context taken over */
    uint8_t *in, *out;
    size_t in_size, in_capacity, out_size;
    z_stream *stream;
} Conn;

typedef struct {
    uint8_t *packed;
    size_t size;
    uint64_t stamp;
} Known;

static Conn *conns;
static Known known[KNOWN];
static unsigned known_next;
static int count = 1000, port, size = 1024, window = 16, ready_count, poller, pid;
static double seconds = 4;
static const char *path = "/", *protocol, *hello, *ready, *pre = "{", *post = "}";
static char **tokens;
static int token_count;
static uint64_t published, delivered, compressed, inflated, errors;
static uint64_t *latencies;
static size_t latency_count, latency_capacity;
static int started;
static uint8_t received[READ_BYTES], plain[INFLATED_BYTES];

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static double server_cpu_s(void) {
    char name[64], text[4096];
    unsigned long user = 0, system = 0;
    snprintf(name, sizeof name, "/proc/%d/stat", pid);
    FILE *file = fopen(name, "r");
    if (!file) return 0;
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[n] = 0;
    char *rest = strrchr(text, ')');
    if (rest) sscanf(rest + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static void *grown(void *block, size_t bytes) {
    block = realloc(block, bytes);
    if (!block) { perror("memory"); exit(1); }
    return block;
}

static void watch(Conn *c, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
}

static void flush(Conn *c) {
    size_t done = 0;
    while (done < c->out_size) {
        ssize_t n = send(c->fd, c->out + done, c->out_size - done, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) { errors++; done = c->out_size; break; }
            break;
        }
        done += (size_t)n;
    }
    memmove(c->out, c->out + done, c->out_size - done);
    c->out_size -= done;
    watch(c, c->out_size ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

/* Queue a masked frame that is not compressed: RFC 7692 leaves that to the sender. */
static void put_frame(Conn *c, int opcode, const void *data, size_t n) {
    static const uint8_t mask[4] = {0x12, 0x34, 0x56, 0x78};
    c->out = grown(c->out, c->out_size + n + 14);
    uint8_t *p = c->out + c->out_size;
    *p++ = (uint8_t)(0x80 | opcode);
    if (n < 126) {
        *p++ = (uint8_t)(0x80 | n);
    } else {
        *p++ = 0x80 | 126;
        *p++ = (uint8_t)(n >> 8);
        *p++ = (uint8_t)n;
    }
    memcpy(p, mask, 4);
    p += 4;
    for (size_t i = 0; i < n; i++) p[i] = ((const uint8_t *)data)[i] ^ mask[i & 3];
    c->out_size = (size_t)(p - c->out) + n;
}

static void publish(Conn *c) {
    static char text[65000];
    size_t n = (size_t)snprintf(text, 4096, "%s\"mark\":\"T=%016llx\",\"rows\":[", pre, (unsigned long long)now_ns());
    size_t end = strlen(pre) + (size_t)size;
    for (unsigned row = 0; n + 100 < end; row++) {
        unsigned id = (unsigned)published * 31 + row * 7919;
        n += (size_t)sprintf(text + n, "%s{\"id\":%u,\"user\":\"user-%u\",\"state\":\"%s\",\"score\":%u.%u}", row ? "," : "",
                             id % 1000003, id % 977, id & 1 ? "online" : "away", id % 100, id % 10);
    }
    n += (size_t)sprintf(text + n, "]%s", post);
    put_frame(c, 1, text, n);
    flush(c);
    published++;
}

static void note(uint64_t stamp, uint64_t arrived) {
    delivered++;
    if (delivered & 15) return;
    if (latency_count == latency_capacity) {
        latency_capacity = latency_capacity ? latency_capacity * 2 : 65536;
        latencies = grown(latencies, latency_capacity * sizeof *latencies);
    }
    latencies[latency_count++] = arrived - stamp;
}

static uint64_t stamp_in(const uint8_t *data, size_t n) {
    const uint8_t *mark = memmem(data, n, "T=", 2);
    char digits[17] = {0};
    if (!mark || data + n - mark < MARK) return 0;
    memcpy(digits, mark + 2, 16);
    return strtoull(digits, NULL, 16);
}

static size_t inflate_frame(Conn *c, const uint8_t *data, size_t n) {
    static uint8_t tail[4] = {0, 0, 0xff, 0xff};
    z_stream *z = c->stream;
    z->next_out = plain;
    z->avail_out = sizeof plain;
    z->next_in = (uint8_t *)data;
    z->avail_in = (unsigned)n;
    int status = inflate(z, Z_SYNC_FLUSH);
    z->next_in = tail;
    z->avail_in = 4;
    if (status == Z_OK || status == Z_BUF_ERROR) status = inflate(z, Z_SYNC_FLUSH);
    size_t size = sizeof plain - z->avail_out;
    if (status != Z_OK && status != Z_BUF_ERROR && status != Z_STREAM_END) errors++;
    if (c->fresh) inflateReset(z);
    inflated++;
    return size;
}

static uint64_t stamp_of_packed(Conn *c, const uint8_t *data, size_t n) {
    if (c->fresh)
        for (unsigned i = 1; i <= KNOWN; i++) {
            Known *k = &known[(known_next - i) % KNOWN];
            if (k->size == n && !memcmp(k->packed, data, n)) return k->stamp;
        }
    uint64_t stamp = stamp_in(plain, inflate_frame(c, data, n));
    if (c->fresh) {
        Known *k = &known[known_next++ % KNOWN];
        k->packed = grown(k->packed, n + 1);
        memcpy(k->packed, data, n);
        k->size = n;
        k->stamp = stamp;
    }
    return stamp;
}

static void on_frame(Conn *c, int first, const uint8_t *data, size_t n) {
    int opcode = first & 15;
    if (opcode == 9) {
        put_frame(c, 10, data, n);
        flush(c);
    } else if (opcode == 8) {
        errors++;
    } else if (opcode == 1 || opcode == 2) {
        uint64_t stamp;
        if (first & 0x40) {
            compressed += started;
            stamp = started || c->ready ? stamp_of_packed(c, data, n) : 0;
            if (!started && !c->ready) {
                n = inflate_frame(c, data, n);
                data = plain;
            }
        } else {
            stamp = stamp_in(data, n);
        }
        if (!c->ready && (!ready || memmem(data, n, ready, strlen(ready)))) {
            c->ready = 1;
            ready_count++;
        } else if (started && stamp) {
            note(stamp, now_ns());
        }
    }
}

static void on_upgraded(Conn *c, size_t head) {
    c->in[head - 1] = 0;
    if (strncmp((char *)c->in, "HTTP/1.1 101", 12) || !strcasestr((char *)c->in, "permessage-deflate")) {
        fprintf(stderr, "no upgrade with compression: %.200s\n", (char *)c->in);
        exit(1);
    }
    c->upgraded = 1;
    c->fresh = strcasestr((char *)c->in, "server_no_context_takeover") != NULL;
    static z_stream *shared;
    if (!c->fresh || !shared) {
        c->stream = calloc(1, sizeof *c->stream);
        if (!c->stream || inflateInit2(c->stream, -15) != Z_OK) exit(1);
        if (c->fresh) shared = c->stream;
    } else {
        c->stream = shared;
    }
    if (hello) {
        char text[8192];
        int n = snprintf(text, sizeof text, hello, token_count ? tokens[(c - conns) % token_count] : "");
        put_frame(c, 1, text, (size_t)n);
        flush(c);
    }
    if (!ready) {
        c->ready = 1;
        ready_count++;
    }
}

static void parse(Conn *c) {
    uint8_t *p = c->in;
    size_t left = c->in_size;
    if (!c->upgraded) {
        uint8_t *end = memmem(p, left, "\r\n\r\n", 4);
        if (!end) return;
        size_t head = (size_t)(end - p) + 4;
        on_upgraded(c, head);
        p += head;
        left -= head;
    }
    while (left >= 2) {
        size_t n = p[1] & 127, head = 2;
        if (n == 126) {
            if (left < 4) break;
            n = (size_t)p[2] << 8 | p[3];
            head = 4;
        } else if (n == 127) {
            if (left < 10) break;
            n = 0;
            for (int i = 2; i < 10; i++) n = n << 8 | p[i];
            head = 10;
        }
        if (left < head + n) break;
        on_frame(c, p[0], p + head, n);
        p += head + n;
        left -= head + n;
    }
    memmove(c->in, p, left);
    c->in_size = left;
}

static void turn(int wait_ms) {
    struct epoll_event events[512];
    int n = epoll_wait(poller, events, 512, wait_ms);
    for (int i = 0; i < n; i++) {
        Conn *c = events[i].data.ptr;
        if (events[i].events & EPOLLOUT) flush(c);
        if (!(events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) continue;
        ssize_t k = recv(c->fd, received, sizeof received, 0);
        if (k < 0 && errno == EAGAIN) continue;
        if (k <= 0) {
            errors++;
            close(c->fd);
            continue;
        }
        if (c->in_size + (size_t)k > c->in_capacity) {
            c->in_capacity = c->in_size + (size_t)k;
            c->in = grown(c->in, c->in_capacity);
        }
        memcpy(c->in + c->in_size, received, (size_t)k);
        c->in_size += (size_t)k;
        parse(c);
    }
}

static void dial(Conn *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    char head[1024];
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address)) { perror("connect"); exit(1); }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    int n = snprintf(head, sizeof head,
                     "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
                     "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n%s%s%s\r\n",
                     path, port, protocol ? "Sec-WebSocket-Protocol: " : "", protocol ? protocol : "",
                     protocol ? "\r\n" : "");
    if (write(c->fd, head, (size_t)n) != n) { perror("write"); exit(1); }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

static void read_tokens(const char *name) {
    char line[4096];
    FILE *file = fopen(name, "r");
    if (!file) { perror(name); exit(1); }
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        tokens = grown(tokens, (size_t)(token_count + 1) * sizeof *tokens);
        tokens[token_count++] = strdup(line);
    }
    fclose(file);
}

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void read_options(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (!strcmp(name, "--port")) port = atoi(value);
        else if (!strcmp(name, "--n")) count = atoi(value);
        else if (!strcmp(name, "--size")) size = atoi(value);
        else if (!strcmp(name, "--secs")) seconds = atof(value);
        else if (!strcmp(name, "--window")) window = atoi(value);
        else if (!strcmp(name, "--pid")) pid = atoi(value);
        else if (!strcmp(name, "--path")) path = value;
        else if (!strcmp(name, "--proto")) protocol = value;
        else if (!strcmp(name, "--hello")) hello = value;
        else if (!strcmp(name, "--tokens")) read_tokens(value);
        else if (!strcmp(name, "--ready")) ready = value;
        else if (!strcmp(name, "--pre")) pre = value;
        else if (!strcmp(name, "--post")) post = value;
        else { fprintf(stderr, "unknown %s\n", name); exit(2); }
    }
    if (size > 60000) { fprintf(stderr, "--size: at most 60000\n"); exit(2); }
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    poller = epoll_create1(0);
    conns = calloc((size_t)count, sizeof *conns);
    double cpu = server_cpu_s();
    uint64_t begin = now_ns(), deadline = begin + 60000000000u;
    for (int i = 0; i < count; i++) {
        dial(&conns[i]);
        while (i - ready_count > 400 && now_ns() < deadline) turn(10);
    }
    while (ready_count < count && !errors && now_ns() < deadline) turn(50);
    double took = (double)(now_ns() - begin) / 1e9;
    printf("connect: %d ready of %d in %.2f s = %.0f/s; server cpu %.1f us/conn\n", ready_count, count, took,
           ready_count / took, (server_cpu_s() - cpu) / count * 1e6);
    if (ready_count < count) return 1;
    cpu = server_cpu_s();
    started = 1;
    begin = now_ns();
    uint64_t end = begin + (uint64_t)(seconds * 1e9);
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    while (now_ns() < end) {
        while (published - delivered / (uint64_t)count < (uint64_t)window) publish(&conns[published % (uint64_t)count]);
        turn(10);
    }
    double elapsed = (double)(now_ns() - begin) / 1e9;
    uint64_t counted = delivered, drained = now_ns() + 3000000000u;
    getrusage(RUSAGE_SELF, &after);
    double spent = server_cpu_s() - cpu;
    while (delivered < published * (uint64_t)count && now_ns() < drained) turn(10);
    double busy = (double)(after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec - before.ru_stime.tv_sec) +
                  (double)(after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec - before.ru_stime.tv_usec) / 1e6;
    qsort(latencies, latency_count, sizeof *latencies, ascending);
    printf("deflate: %llu msgs in %.2f s = %.0f/s; server cpu %.3f us/msg, busy %.0f%%; published %llu, lost %lld; "
           "lat us p50 %.0f p99 %.0f; errs %llu; client busy %.0f%%; compressed %.0f%%, inflated %llu\n",
           (unsigned long long)counted, elapsed, (double)counted / elapsed, spent / (double)counted * 1e6,
           spent / elapsed * 100, (unsigned long long)published,
           (long long)(published * (uint64_t)count - delivered),
           latency_count ? (double)latencies[latency_count / 2] / 1e3 : 0,
           latency_count ? (double)latencies[latency_count * 99 / 100] / 1e3 : 0, (unsigned long long)errors,
           busy / elapsed * 100, delivered ? (double)compressed / (double)delivered * 100 : 0,
           (unsigned long long)inflated);
    return 0;
}
