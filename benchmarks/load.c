/* The load client of castd's benchmarks: many TFTP reads at once from one process, every octet compared.
 *
 *   load HOST PORT ROOT NAME[,NAME...] [--blksize N] [--windowsize N] [--clients N] [--transfers N]
 *        [--loss P] [--seed N] [--timer SECONDS] [--patience SECONDS]
 *
 * CLIENTS reads are under way at a time until TRANSFERS of them are done, each from a new port; read number i asks for
 * NAME number i modulo the count. A correct receiver by RFC 1350, 2347, 2348 and 7440: the first answer fixes the
 * server's port, a request or an ACK is repeated after TIMER seconds of silence (doubled up to 8), old DATA advances
 * nothing, a gap in a window is reported once. LOSS drops that part of the packets of either direction, by a generator
 * seeded for each of the CLIENTS, so that every server meets the same fate. One line of JSON goes to standard output.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { RRQ = 1, DATA = 3, ACK = 4, ERROR = 5, OACK = 6 };
enum { MOST_FILES = 64, BATCH = 64, DEFAULT_BLKSIZE = 512, SCAN_MS = 50, MOST_EVENTS = 256 };
enum phase { IDLE, ASKED, GRANTED, READING, DALLYING };

struct file { const char *name; const uint8_t *data; uint64_t size; };

struct client {
    enum phase phase;
    int fd;
    const struct file *file;
    uint64_t expected, acked; /* numbers of blocks since the first, 1; not the 16 bits of the wire */
    uint32_t blksize, window;
    bool gap; /* the present gap has been reported */
    double began, moved, deadline, interval;
    uint64_t chance;
};

static struct { uint32_t blksize, window, clients, transfers; double loss, timer, patience; uint64_t seed; }
    wish = {512, 1, 1, 1, 0.0, 1.0, 16.0, 1};
static struct { unsigned long blocks, octets, requests, request_repeats, ack_repeats, old_blocks, failures; } count;
static struct file files[MOST_FILES];
static uint32_t file_count, begun, ended, latency_count, granted_window = 1;
static struct sockaddr_in server;
static struct mmsghdr batch[BATCH];
static struct iovec vectors[BATCH];
static size_t room;
static double *latencies, now;
static int set;

static void die(const char *what) { perror(what); exit(2); }

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static bool lost(struct client *c) {
    if (wish.loss <= 0) return false;
    c->chance ^= c->chance >> 12, c->chance ^= c->chance << 25, c->chance ^= c->chance >> 27;
    return (double)(c->chance * 2685821657736338717ULL >> 11) / 9007199254740992.0 < wish.loss;
}

static void put16(uint8_t *at, uint16_t value) { at[0] = (uint8_t)(value >> 8), at[1] = (uint8_t)value; }
static uint16_t get16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }

static void request(struct client *c) {
    uint8_t packet[1024] = {0, RRQ};
    int n = 2 + sprintf((char *)packet + 2, "%s", c->file->name) + 1;
    n += sprintf((char *)packet + n, "octet") + 1;
    if (wish.blksize != DEFAULT_BLKSIZE) {
        n += sprintf((char *)packet + n, "blksize") + 1;
        n += sprintf((char *)packet + n, "%u", wish.blksize) + 1;
    }
    if (wish.window > 1) {
        n += sprintf((char *)packet + n, "windowsize") + 1;
        n += sprintf((char *)packet + n, "%u", wish.window) + 1;
    }
    if (!lost(c) && sendto(c->fd, packet, (size_t)n, 0, (struct sockaddr *)&server, sizeof server) < 0) die("sendto");
    c->deadline = now + c->interval;
}

/* What is acknowledged is always the last block in order. */
static void acknowledge(struct client *c) {
    uint8_t packet[4] = {0, ACK};
    c->acked = c->expected - 1;
    put16(packet + 2, (uint16_t)c->acked);
    c->deadline = now + c->interval;
    /* ECONNREFUSED is an earlier packet's ICMP answer: silence will tell. */
    if (!lost(c) && send(c->fd, packet, sizeof packet, 0) < 0 && errno != ECONNREFUSED && errno != EAGAIN) die("send");
}

static void begin(struct client *c) {
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = c};
    int size = 1 << 20;
    c->fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket");
    setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (epoll_ctl(set, EPOLL_CTL_ADD, c->fd, &interest) < 0) die("epoll_ctl");
    c->file = &files[begun++ % file_count];
    c->phase = ASKED, c->expected = 1, c->acked = 0, c->gap = false;
    c->blksize = DEFAULT_BLKSIZE, c->window = 1;
    c->began = c->moved = now, c->interval = wish.timer;
    count.requests++;
    request(c);
}

static void leave(struct client *c) { /* closing takes it out of the set */
    close(c->fd);
    c->phase = IDLE;
    if (begun < wish.transfers) begin(c);
}

/* The server is told, unless it knows (CODE 0 is for its own ERROR and for silence). */
static void fail(struct client *c, uint16_t code, const char *why) {
    uint8_t packet[5] = {0, ERROR};
    put16(packet + 2, code);
    if (code && send(c->fd, packet, sizeof packet, 0) < 0 && errno != ECONNREFUSED) die("send");
    if (!count.failures++) fprintf(stderr, "%s, block %u: %s\n", c->file->name, (uint32_t)c->expected, why);
    ended++;
    leave(c);
}

/* The last ACK may be lost on the way: then somebody has to hear the last block again (RFC 1350, section 6). */
static void finish(struct client *c) {
    latencies[latency_count++] = seconds() - c->began;
    ended++;
    if (wish.loss > 0 && begun >= wish.transfers) c->phase = DALLYING;
    else leave(c);
}

static void granted(struct client *c, const uint8_t *packet, size_t size) {
    const char *at = (const char *)packet + 2, *end = (const char *)packet + size;
    if (c->phase == READING) return;
    if (c->phase == GRANTED) count.ack_repeats++;
    while (at < end) {
        const char *name = at, *value = memchr(at, 0, (size_t)(end - at));
        if (!value || !(at = memchr(value + 1, 0, (size_t)(end - value - 1)))) return fail(c, 8, "malformed OACK");
        at++, value++;
        uint32_t number = (uint32_t)strtoul(value, NULL, 10);
        if (!strcasecmp(name, "blksize") && number >= 8 && number <= wish.blksize) c->blksize = number;
        else if (!strcasecmp(name, "windowsize") && number >= 1 && number <= wish.window) c->window = number;
        else return fail(c, 8, "an option that was not asked for");
    }
    c->phase = GRANTED, c->moved = now, granted_window = c->window;
    acknowledge(c);
}

static void heard(struct client *c, const uint8_t *packet, size_t size) {
    uint16_t ahead = (uint16_t)(get16(packet + 2) - (uint16_t)c->expected);
    size_t length = size - 4;
    if (ahead) {
        bool old = ahead >= 0x8000;
        if (old) count.old_blocks++;
        /* The last block that was acknowledged comes again: our ACK was lost. Any other old block says nothing. */
        if (old ? get16(packet + 2) == (uint16_t)c->acked : c->window > 1 && !c->gap) {
            if (!old) c->gap = true;
            count.ack_repeats++;
            acknowledge(c);
        }
        return;
    }
    if (c->phase == DALLYING) return;
    uint64_t offset = (c->expected - 1) * c->blksize;
    uint64_t left = c->file->size - offset;
    if (length != (left < c->blksize ? left : c->blksize)) return fail(c, 4, "a block of the wrong length");
    if (memcmp(packet + 4, c->file->data + offset, length)) return fail(c, 4, "octets that are not the file's");
    c->phase = READING, c->expected++, c->gap = false;
    c->moved = now, c->interval = wish.timer, c->deadline = now + wish.timer;
    count.blocks++, count.octets += length;
    bool last = length < c->blksize;
    if (last || c->expected - 1 - c->acked >= c->window) acknowledge(c);
    if (last) finish(c);
}

static void receive(struct client *c, const uint8_t *packet, size_t size) {
    if (size >= 2 && get16(packet) == ERROR) {
        if (c->phase != DALLYING) fail(c, 0, size > 4 ? (const char *)packet + 4 : "ERROR");
    } else if (size >= 4 && get16(packet) == DATA) heard(c, packet, size);
    else if (size >= 4 && get16(packet) == OACK && c->phase != DALLYING) granted(c, packet, size);
}

static void hear(struct client *c) {
    uint8_t *buffer = vectors[0].iov_base;
    if (c->phase == ASKED) { /* the port that answers first is the server's end from now on */
        struct sockaddr_in from;
        socklen_t length = sizeof from;
        ssize_t n = recvfrom(c->fd, buffer, room, 0, (struct sockaddr *)&from, &length);
        if (n < 0 || from.sin_addr.s_addr != server.sin_addr.s_addr || lost(c)) return;
        if (connect(c->fd, (struct sockaddr *)&from, sizeof from) < 0) die("connect");
        buffer[n] = 0;
        receive(c, buffer, (size_t)n);
        return;
    }
    if (c->window == 1) {
        ssize_t n = recv(c->fd, buffer, room, 0);
        if (n >= 0 && !lost(c)) buffer[n] = 0, receive(c, buffer, (size_t)n);
        return;
    }
    int fd = c->fd, n = recvmmsg(fd, batch, c->window < BATCH ? c->window : BATCH, 0, NULL);
    const struct file *file = c->file;
    double began = c->began;
    for (int i = 0; i < n; i++) {
        if (c->fd != fd || c->file != file || c->began != began || c->phase == IDLE) return; /* another read by now */
        if (lost(c)) continue;
        buffer = vectors[i].iov_base, buffer[batch[i].msg_len] = 0;
        receive(c, buffer, batch[i].msg_len);
    }
}

static void ring(struct client *c) {
    if (c->phase == IDLE || c->phase == DALLYING || now < c->deadline) return;
    if (now - c->moved > wish.patience) return fail(c, 0, "silence");
    c->interval = c->interval * 2 < 8 ? c->interval * 2 : 8;
    if (c->phase == ASKED) count.request_repeats++, request(c);
    else count.ack_repeats++, acknowledge(c);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(double part) {
    return latency_count ? latencies[(uint32_t)(part * (latency_count - 1) + 0.5)] : 0;
}

static void map_files(const char *root, char *names) {
    for (char *name = strtok(names, ","); name; name = strtok(NULL, ",")) {
        char path[4096];
        struct stat status;
        if (file_count == MOST_FILES || strlen(name) > 255) exit(2);
        snprintf(path, sizeof path, "%s/%s", root, name);
        int fd = open(path, O_RDONLY);
        if (fd < 0 || fstat(fd, &status) < 0) die(path);
        void *data = mmap(NULL, (size_t)status.st_size + 1, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
        if (data == MAP_FAILED) die("mmap");
        files[file_count++] = (struct file){name, data, (uint64_t)status.st_size};
        close(fd);
    }
}

static void read_options(int argc, char **argv) {
    static const struct option known[] = {
        {"blksize", 1, 0, 'b'}, {"windowsize", 1, 0, 'w'}, {"clients", 1, 0, 'c'}, {"transfers", 1, 0, 't'},
        {"loss", 1, 0, 'l'}, {"seed", 1, 0, 's'}, {"timer", 1, 0, 'i'}, {"patience", 1, 0, 'p'}, {0, 0, 0, 0}};
    for (int o; (o = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (o == 'b') wish.blksize = (uint32_t)atol(optarg);
        else if (o == 'w') wish.window = (uint32_t)atol(optarg);
        else if (o == 'c') wish.clients = (uint32_t)atol(optarg);
        else if (o == 't') wish.transfers = (uint32_t)atol(optarg);
        else if (o == 'l') wish.loss = atof(optarg);
        else if (o == 's') wish.seed = strtoull(optarg, NULL, 10);
        else if (o == 'i') wish.timer = atof(optarg);
        else if (o == 'p') wish.patience = atof(optarg);
        else exit(2);
    }
    if (argc - optind != 4) { fprintf(stderr, "load HOST PORT ROOT NAME[,NAME...] [options]\n"); exit(2); }
    server.sin_family = AF_INET, server.sin_port = htons((uint16_t)atoi(argv[optind + 1]));
    if (inet_pton(AF_INET, argv[optind], &server.sin_addr) != 1) exit(2);
    map_files(argv[optind + 2], argv[optind + 3]);
}

static double in_seconds(struct timeval t) { return (double)t.tv_sec + 1e-6 * (double)t.tv_usec; }

static void report(double took) {
    struct rusage own;
    getrusage(RUSAGE_SELF, &own);
    qsort(latencies, latency_count, sizeof *latencies, ascending);
    printf("{\"seconds\": %.6f, \"client_cpu\": %.6f, ", took, in_seconds(own.ru_utime) + in_seconds(own.ru_stime));
    printf("\"blocks\": %lu, \"octets\": %lu, \"requests\": %lu, ", count.blocks, count.octets, count.requests);
    printf("\"request_repeats\": %lu, \"ack_repeats\": %lu, ", count.request_repeats, count.ack_repeats);
    printf("\"old_blocks\": %lu, \"failures\": %lu, ", count.old_blocks, count.failures);
    printf("\"window\": %u, ", granted_window);
    printf("\"p50\": %.6f, \"p90\": %.6f, ", quantile(0.5), quantile(0.9));
    printf("\"p99\": %.6f, \"max\": %.6f}\n", quantile(0.99), quantile(1));
}

int main(int argc, char **argv) {
    struct epoll_event events[MOST_EVENTS];
    struct rlimit limit;
    read_options(argc, argv);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if ((set = epoll_create1(EPOLL_CLOEXEC)) < 0) die("epoll_create1");
    room = (wish.blksize > 1024 ? wish.blksize : 1024) + 8; /* more than may come, so that too much is seen */
    for (int i = 0; i < BATCH; i++) {
        vectors[i] = (struct iovec){malloc(room + 1), room};
        batch[i].msg_hdr.msg_iov = &vectors[i], batch[i].msg_hdr.msg_iovlen = 1;
    }
    struct client *clients = calloc(wish.clients, sizeof *clients);
    latencies = calloc(wish.transfers, sizeof *latencies);
    if (!clients || !latencies) die("calloc");
    double start = now = seconds(), scan = start;
    for (uint32_t i = 0; i < wish.clients; i++) {
        clients[i].chance = (wish.seed + 1) * 0x9E3779B97F4A7C15ULL + (i + 1) * 0xD1B54A32D192ED03ULL;
        for (int j = 0; j < 8; j++) lost(&clients[i]);
        if (begun < wish.transfers) now = seconds(), begin(&clients[i]);
    }
    while (ended < wish.transfers) {
        int n = epoll_wait(set, events, MOST_EVENTS, SCAN_MS);
        now = seconds();
        for (int i = 0; i < n; i++) hear(events[i].data.ptr);
        if (now - scan < SCAN_MS * 1e-3) continue;
        scan = now;
        for (uint32_t i = 0; i < wish.clients; i++) ring(&clients[i]);
    }
    report(seconds() - start);
    return 0;
}
