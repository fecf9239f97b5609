/* The load client of castd's benchmarks: many TFTP transfers at once from one process, every octet compared.
 *
 *   load HOST PORT ROOT NAME[,NAME...] [--blksize N] [--windowsize N] [--clients N] [--transfers N] [--loss P] [--seed N]
 *        [--timer SECONDS] [--patience SECONDS] [--most SECONDS] [--poll] [--put] [--multicast] [--seconds S] [--rate N]
 *
 * CLIENTS reads are under way at a time until TRANSFERS of them are done, each from a new port; read number i asks for
 * NAME number i modulo the count. A correct receiver by RFC 1350, 2347, 2348 and 7440: the first answer fixes the
 * server's port, a request or an ACK is repeated after TIMER seconds of silence (doubled up to 8), old DATA advances
 * nothing, a gap in a window is reported once. LOSS drops that part of the packets of either direction, by a generator
 * seeded for each of the CLIENTS, so that every server meets the same fate. One line of JSON goes to standard output.
 *
 * --poll asks the kernel again and again and never sleeps: then no waking up of this process is in the figures.
 * --put writes instead: number i sends the octets of its NAME as NAME.SEED.i.
 * --multicast asks for groups (RFC 2090): it hears blocks there and acknowledges while it is the master client.
 * --seconds S begins transfers for so long, instead of TRANSFERS. --rate N begins N a second, no matter what became of
 * the others (but no more than CLIENTS at a time), and takes the instant of a first answer from the kernel, not from
 * when this process came to read it. After MOST seconds whatever has not ended has failed.
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

enum { RRQ = 1, WRQ = 2, DATA = 3, ACK = 4, ERROR = 5, OACK = 6 };
enum { MOST_FILES = 4096, BATCH = 64, DEFAULT_BLKSIZE = 512, SCAN_MS = 50, MOST_EVENTS = 256, LISTENER_SILENCE = 15 };
enum phase { IDLE, ASKED, GRANTED, RUNNING, DALLYING };

struct file { const char *name; const uint8_t *data; uint64_t size; };
struct times { double *at; uint32_t count, room; };

struct client {
    enum phase phase;
    int fd, group; /* sockets; the second is -1 outside of a group */
    const struct file *file;
    uint32_t number;          /* of the transfer */
    uint64_t expected, acked; /* numbers of blocks since the first, 1; not the 16 bits of the wire. Of a write: sent, acked */
    uint32_t blksize, window;
    bool gap; /* the present gap has been reported */
    bool master, answered;
    uint8_t *have; /* by number of block, in a group */
    double began, moved, deadline, interval;
    uint64_t chance;
};

static struct {
    uint32_t blksize, window, clients, transfers;
    double loss, timer, patience, most, seconds, rate;
    uint64_t seed;
    bool poll, put, multicast;
} wish = {.blksize = 512, .window = 1, .clients = 1, .transfers = 1, .timer = 1, .patience = 16, .most = 1e9, .seed = 1};
static struct { unsigned long blocks, octets, requests, request_repeats, ack_repeats, old_blocks, failures; } count;
static struct file files[MOST_FILES];
static uint32_t file_count, begun, ended, granted_window = 1;
static struct sockaddr_in server;
static struct mmsghdr batch[BATCH];
static struct iovec vectors[BATCH];
static size_t room;
static struct times latencies, answers;
static struct client *clients;
static double now, start;
static int set;

static void die(const char *what) { perror(what); exit(2); }

static double of_spec(struct timespec t) { return (double)t.tv_sec + (double)t.tv_nsec * 1e-9; }

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return of_spec(t);
}

static void keep(struct times *times, double value) {
    if (times->count == times->room) {
        times->room = times->room ? times->room * 2 : 1024;
        if (!(times->at = realloc(times->at, times->room * sizeof *times->at))) die("realloc");
    }
    times->at[times->count++] = value;
}

static bool lost(struct client *c) {
    if (wish.loss <= 0) return false;
    c->chance ^= c->chance >> 12, c->chance ^= c->chance << 25, c->chance ^= c->chance >> 27;
    return (double)(c->chance * 2685821657736338717ULL >> 11) / 9007199254740992.0 < wish.loss;
}

static void put16(uint8_t *at, uint16_t value) { at[0] = (uint8_t)(value >> 8), at[1] = (uint8_t)value; }
static uint16_t get16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }

static uint64_t last_block(const struct client *c) { return c->file->size / c->blksize + 1; }

static size_t length_of(const struct client *c, uint64_t block) {
    uint64_t left = c->file->size - (block - 1) * c->blksize;
    return left < c->blksize ? left : c->blksize;
}

static void request(struct client *c) {
    uint8_t packet[1024] = {0, wish.put ? WRQ : RRQ};
    int n = 2 + sprintf((char *)packet + 2, "%s", c->file->name);
    if (wish.put) n += sprintf((char *)packet + n, ".%llu.%u", (unsigned long long)wish.seed, c->number);
    n += 1 + sprintf((char *)packet + n + 1, "octet") + 1;
    if (wish.blksize != DEFAULT_BLKSIZE) {
        n += sprintf((char *)packet + n, "blksize") + 1;
        n += sprintf((char *)packet + n, "%u", wish.blksize) + 1;
    }
    if (wish.window > 1) {
        n += sprintf((char *)packet + n, "windowsize") + 1;
        n += sprintf((char *)packet + n, "%u", wish.window) + 1;
    }
    if (wish.multicast) n += sprintf((char *)packet + n, "multicast") + 2; /* its value is empty */
    if (!lost(c) && sendto(c->fd, packet, (size_t)n, 0, (struct sockaddr *)&server, sizeof server) < 0) die("sendto");
    c->deadline = now + c->interval;
}

/* ECONNREFUSED is an earlier packet's ICMP answer: silence will tell. */
static void put_on_wire(struct client *c, const void *packet, size_t size) {
    if (!lost(c) && send(c->fd, packet, size, 0) < 0 && errno != ECONNREFUSED && errno != EAGAIN) die("send");
}

/* What is acknowledged is always the last block in order. */
static void acknowledge(struct client *c) {
    uint8_t packet[4] = {0, ACK};
    c->acked = c->expected - 1;
    put16(packet + 2, (uint16_t)c->acked);
    c->deadline = now + c->interval;
    put_on_wire(c, packet, sizeof packet);
}

/* Of a write: the window behind what was acknowledged. */
static void send_window(struct client *c) {
    uint8_t *packet = vectors[0].iov_base;
    for (c->expected = c->acked; c->expected < last_block(c) && c->expected - c->acked < c->window;) {
        uint64_t block = ++c->expected;
        put16(packet, DATA), put16(packet + 2, (uint16_t)block);
        memcpy(packet + 4, c->file->data + (block - 1) * c->blksize, length_of(c, block));
        put_on_wire(c, packet, length_of(c, block) + 4);
    }
    c->deadline = now + c->interval;
}

static bool may_begin(void) { return wish.seconds > 0 ? now - start < wish.seconds : begun < wish.transfers; }

/* The lowest bit of an event tells the group's socket from the client's own. */
static void watch(struct client *c, int fd, bool group) {
    struct epoll_event interest = {.events = EPOLLIN, .data.u64 = (uint64_t)(c - clients) << 1 | group};
    if (epoll_ctl(set, EPOLL_CTL_ADD, fd, &interest) < 0) die("epoll_ctl");
}

static int open_socket(void) {
    int size = 1 << 20, fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    return fd;
}

static void begin(struct client *c) {
    int on = 1;
    c->fd = open_socket();
    if (wish.rate > 0) setsockopt(c->fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
    watch(c, c->fd, false);
    c->number = begun;
    c->file = &files[begun++ % file_count];
    c->phase = ASKED, c->expected = 1, c->acked = 0, c->gap = c->master = c->answered = false, c->group = -1;
    c->blksize = DEFAULT_BLKSIZE, c->window = 1;
    c->began = c->moved = now, c->interval = wish.timer;
    count.requests++;
    if (wish.rate > 0) { /* the kernel dates answers by this clock */
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        c->began = of_spec(t);
    }
    request(c);
}

static void leave(struct client *c) { /* closing takes a socket out of the set */
    close(c->fd);
    if (c->group >= 0) close(c->group);
    free(c->have);
    c->have = NULL, c->phase = IDLE;
    if (wish.rate <= 0 && may_begin()) begin(c);
}

/* The server is told, unless it knows (CODE 0 is for its own ERROR and for silence). */
static void fail(struct client *c, uint16_t code, const char *why) {
    uint8_t packet[5] = {0, ERROR};
    put16(packet + 2, code);
    if (code && c->phase != ASKED) put_on_wire(c, packet, sizeof packet);
    if (!count.failures++) fprintf(stderr, "%s, block %u: %s\n", c->file->name, (uint32_t)c->expected, why);
    ended++;
    leave(c);
}

/* The last ACK may be lost on the way: then somebody has to hear the last block again (RFC 1350, section 6). */
static void finish(struct client *c) {
    if (wish.rate <= 0) keep(&latencies, seconds() - c->began);
    ended++;
    if (wish.loss > 0 && !may_begin()) c->phase = DALLYING;
    else leave(c);
}

/* -> whether the value of the option could be read: "address,port,flag", the first two may be empty later. */
static bool join(struct client *c, const char *value) {
    char address[64] = "";
    unsigned port = 0, flag = 0;
    if (sscanf(value, "%63[0-9.],%u,%u", address, &port, &flag) != 3 && sscanf(value, ",,%u", &flag) != 1) return false;
    c->master = flag == 1;
    if (c->group >= 0 || !*address) return c->group >= 0;
    struct sockaddr_in group = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct ip_mreqn member = {.imr_address = server.sin_addr};
    int on = 1, off = 0;
    if (inet_pton(AF_INET, address, &group.sin_addr) != 1) return false;
    member.imr_multiaddr = group.sin_addr;
    c->group = open_socket();
    setsockopt(c->group, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(c->group, IPPROTO_IP, IP_MULTICAST_ALL, &off, sizeof off);
    if (bind(c->group, (struct sockaddr *)&group, sizeof group) < 0) die("bind to the group");
    if (setsockopt(c->group, IPPROTO_IP, IP_ADD_MEMBERSHIP, &member, sizeof member) < 0) die("IP_ADD_MEMBERSHIP");
    watch(c, c->group, true);
    if (!(c->have = calloc(last_block(c) + 2, 1))) die("calloc");
    return true;
}

static void granted(struct client *c, const uint8_t *packet, size_t size) {
    const char *at = (const char *)packet + 2, *end = (const char *)packet + size;
    const char *group = NULL;
    if (c->phase == RUNNING && c->group < 0) return;
    if (c->phase == GRANTED && c->group < 0) count.ack_repeats++;
    while (at < end) {
        const char *name = at, *value = memchr(at, 0, (size_t)(end - at));
        if (!value || !(at = memchr(value + 1, 0, (size_t)(end - value - 1)))) return fail(c, 8, "malformed OACK");
        at++, value++;
        uint32_t number = (uint32_t)strtoul(value, NULL, 10);
        if (!strcasecmp(name, "blksize") && number >= 8 && number <= wish.blksize) c->blksize = number;
        else if (!strcasecmp(name, "windowsize") && number >= 1 && number <= wish.window) c->window = number;
        else if (!strcasecmp(name, "multicast") && wish.multicast) group = value;
        else return fail(c, 8, "an option that was not asked for");
    }
    if (group && !join(c, group)) return fail(c, 8, "a group that cannot be read");
    c->phase = c->phase == RUNNING ? RUNNING : GRANTED, c->moved = now, granted_window = c->window;
    c->deadline = now + LISTENER_SILENCE;
    if (wish.put) c->phase = RUNNING, send_window(c);
    else if (!group) acknowledge(c);
    else if (c->master) { /* made the master with everything there: this ACK is the last word */
        acknowledge(c);
        if (c->acked == last_block(c)) finish(c);
    }
}

static bool right(struct client *c, uint64_t block, const uint8_t *payload, size_t length) {
    if (length != length_of(c, block)) fail(c, 4, "a block of the wrong length");
    else if (memcmp(payload, c->file->data + (block - 1) * c->blksize, length)) fail(c, 4, "octets that are not the file's");
    else return true;
    return false;
}

static void moved(struct client *c, size_t length) {
    c->phase = RUNNING, c->moved = now, c->interval = wish.timer;
    count.blocks++, count.octets += length;
}

/* A block of a group comes to all; the master acknowledges when the first one that it lacks has come. */
static void heard_in_group(struct client *c, const uint8_t *packet, size_t size) {
    uint64_t block = get16(packet + 2);
    if (block < 1 || block > last_block(c)) return fail(c, 4, "a block that the file does not have");
    if (c->have[block]) {
        count.old_blocks++;
        if (c->master && block + 1 == c->expected) count.ack_repeats++, acknowledge(c);
        return;
    }
    if (!right(c, block, packet + 4, size - 4)) return;
    moved(c, size - 4);
    c->have[block] = 1;
    bool next = block == c->expected;
    while (c->have[c->expected]) c->expected++;
    if (!c->master) c->deadline = now + LISTENER_SILENCE;
    else if (next) {
        acknowledge(c);
        if (c->acked == last_block(c)) finish(c);
    }
}

static void heard(struct client *c, const uint8_t *packet, size_t size) {
    uint16_t ahead = (uint16_t)(get16(packet + 2) - (uint16_t)c->expected);
    size_t length = size - 4;
    if (c->group >= 0) return heard_in_group(c, packet, size);
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
    if (c->phase == DALLYING || !right(c, c->expected, packet + 4, length)) return;
    moved(c, length);
    c->expected++, c->gap = false, c->deadline = now + wish.timer;
    bool last = length < c->blksize;
    if (last || c->expected - 1 - c->acked >= c->window) acknowledge(c);
    if (last) finish(c);
}

/* Of a write. A second ACK of the same block sends nothing (RFC 1123, 4.2.3.1), unless a window arrived in part. */
static void acknowledged(struct client *c, uint16_t number) {
    if (c->phase != RUNNING) { /* ACK 0: no option was granted */
        if (c->phase == ASKED && number == 0) c->phase = RUNNING, c->moved = now, send_window(c);
        return;
    }
    uint16_t ahead = (uint16_t)(number - (uint16_t)c->acked);
    if (ahead == 0 || ahead > c->expected - c->acked) {
        count.old_blocks++;
        return;
    }
    for (; ahead; ahead--) moved(c, length_of(c, ++c->acked));
    if (c->acked == last_block(c)) finish(c);
    else send_window(c);
}

static void receive(struct client *c, const uint8_t *packet, size_t size) {
    uint16_t opcode = size >= 4 ? get16(packet) : 0;
    if (opcode == ERROR) {
        if (c->phase != DALLYING) fail(c, 0, size > 4 ? (const char *)packet + 4 : "ERROR");
    } else if (opcode == DATA && !wish.put) heard(c, packet, size);
    else if (opcode == ACK && wish.put && c->phase != DALLYING) acknowledged(c, get16(packet + 2));
    else if (opcode == OACK && c->phase != DALLYING) granted(c, packet, size);
}

/* When the kernel got the packet, where it was asked to say so. */
static double arrival(struct msghdr *message) {
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part))
        if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_TIMESTAMPNS) {
            struct timespec t;
            memcpy(&t, CMSG_DATA(part), sizeof t);
            return of_spec(t);
        }
    return seconds();
}

/* The port that answers first is the server's end from now on. */
static void hear_first(struct client *c) {
    struct sockaddr_in from;
    char control[64];
    struct msghdr message = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = vectors, .msg_iovlen = 1,
                             .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(c->fd, &message, 0);
    if (n < 0 || from.sin_addr.s_addr != server.sin_addr.s_addr || lost(c)) return;
    if (!c->answered) keep(&answers, arrival(&message) - c->began);
    c->answered = true;
    if (connect(c->fd, (struct sockaddr *)&from, sizeof from) < 0) die("connect");
    uint8_t *buffer = vectors[0].iov_base;
    buffer[n] = 0;
    receive(c, buffer, (size_t)n);
}

static void hear(struct client *c, bool group) {
    uint8_t *buffer = vectors[0].iov_base;
    if (c->phase == IDLE || (group && c->group < 0)) return; /* closed since the kernel told of it */
    if (c->phase == ASKED) return hear_first(c);
    if (c->window == 1 && !group) {
        ssize_t n = recv(c->fd, buffer, room, 0);
        if (n >= 0 && !lost(c)) buffer[n] = 0, receive(c, buffer, (size_t)n);
        return;
    }
    uint32_t number = c->number;
    int n = recvmmsg(group ? c->group : c->fd, batch, group || c->window > BATCH ? BATCH : c->window, 0, NULL);
    for (int i = 0; i < n; i++) {
        if (c->number != number || c->phase == IDLE) return; /* another transfer by now */
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
    else if (c->group >= 0 && !c->master) c->deadline = now + LISTENER_SILENCE; /* it only listens */
    else if (wish.put) count.ack_repeats++, send_window(c);
    else count.ack_repeats++, acknowledge(c);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void tell(const char *name, struct times *times) {
    qsort(times->at, times->count, sizeof *times->at, ascending);
    static const double parts[] = {0.5, 0.9, 0.99, 1};
    static const char *const names[] = {"p50", "p90", "p99", "max"};
    for (int i = 0; i < 4; i++)
        printf("\"%s%s\": %.6f, ", name, names[i],
               times->count ? times->at[(uint32_t)(parts[i] * (times->count - 1) + 0.5)] : 0.0);
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
        {"loss", 1, 0, 'l'}, {"seed", 1, 0, 's'}, {"timer", 1, 0, 'i'}, {"patience", 1, 0, 'p'}, {"most", 1, 0, 'm'},
        {"poll", 0, 0, 'P'}, {"put", 0, 0, 'u'}, {"multicast", 0, 0, 'M'}, {"seconds", 1, 0, 'S'}, {"rate", 1, 0, 'r'},
        {0, 0, 0, 0}};
    for (int o; (o = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (o == 'b') wish.blksize = (uint32_t)atol(optarg);
        else if (o == 'w') wish.window = (uint32_t)atol(optarg);
        else if (o == 'c') wish.clients = (uint32_t)atol(optarg);
        else if (o == 't') wish.transfers = (uint32_t)atol(optarg);
        else if (o == 'l') wish.loss = atof(optarg);
        else if (o == 's') wish.seed = strtoull(optarg, NULL, 10);
        else if (o == 'i') wish.timer = atof(optarg);
        else if (o == 'p') wish.patience = atof(optarg);
        else if (o == 'm') wish.most = atof(optarg);
        else if (o == 'P') wish.poll = true;
        else if (o == 'u') wish.put = true;
        else if (o == 'M') wish.multicast = true;
        else if (o == 'S') wish.seconds = atof(optarg);
        else if (o == 'r') wish.rate = atof(optarg);
        else exit(2);
    }
    if (argc - optind != 4) { fprintf(stderr, "load HOST PORT ROOT NAME[,NAME...] [options]\n"); exit(2); }
    server.sin_family = AF_INET, server.sin_port = htons((uint16_t)atoi(argv[optind + 1]));
    if (inet_pton(AF_INET, argv[optind], &server.sin_addr) != 1) exit(2);
    map_files(argv[optind + 2], argv[optind + 3]);
}

static double in_seconds(struct timeval t) { return (double)t.tv_sec + 1e-6 * (double)t.tv_usec; }

/* How long this process was ready and others had its CPU. */
static double waited(void) {
    unsigned long long ran = 0, waiting = 0;
    FILE *statistics = fopen("/proc/self/schedstat", "r");
    if (statistics && fscanf(statistics, "%llu %llu", &ran, &waiting) != 2) waiting = 0;
    if (statistics) fclose(statistics);
    return (double)waiting * 1e-9;
}

static void report(double took, double idle) {
    struct rusage own;
    getrusage(RUSAGE_SELF, &own);
    double cpu = in_seconds(own.ru_utime) + in_seconds(own.ru_stime);
    printf("{\"seconds\": %.6f, \"client_cpu\": %.6f, \"client_idle\": %.6f, ", took, cpu, idle);
    printf("\"client_waited\": %.6f, ", waited());
    printf("\"blocks\": %lu, \"octets\": %lu, \"requests\": %lu, ", count.blocks, count.octets, count.requests);
    printf("\"request_repeats\": %lu, \"ack_repeats\": %lu, ", count.request_repeats, count.ack_repeats);
    printf("\"old_blocks\": %lu, \"failures\": %lu, ", count.old_blocks, count.failures);
    tell("", &latencies);
    tell("answer_", &answers);
    printf("\"ended\": %u, \"window\": %u}\n", ended, granted_window);
}

/* With a rate: what is due, by whoever is idle. */
static void begin_due(void) {
    static uint32_t next;
    while (may_begin() && begun < (now - start) * wish.rate) {
        uint32_t tries = 0;
        while (tries < wish.clients && clients[next].phase != IDLE) next = (next + 1) % wish.clients, tries++;
        if (tries == wish.clients) return;
        begin(&clients[next]);
    }
}

static int patience_ms(void) {
    if (wish.poll) return 0;
    return wish.rate > 0 && 1e3 / wish.rate < SCAN_MS ? (int)(1e3 / wish.rate) : SCAN_MS;
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
    clients = calloc(wish.clients, sizeof *clients);
    if (!clients) die("calloc");
    start = now = seconds();
    double scan = start, idle = 0;
    for (uint32_t i = 0; i < wish.clients; i++) {
        clients[i].chance = (wish.seed + 1) * 0x9E3779B97F4A7C15ULL + (i + 1) * 0xD1B54A32D192ED03ULL;
        for (int j = 0; j < 8; j++) lost(&clients[i]);
        if (wish.rate <= 0 && may_begin()) now = seconds(), begin(&clients[i]);
    }
    while ((may_begin() || ended < begun) && now - start < wish.most) {
        double before = wish.poll ? seconds() : 0;
        int n = epoll_wait(set, events, MOST_EVENTS, patience_ms());
        now = seconds();
        if (!n && wish.poll) idle += now - before;
        for (int i = 0; i < n; i++) hear(&clients[events[i].data.u64 >> 1], events[i].data.u64 & 1);
        if (wish.rate > 0) begin_due();
        if (now - scan < SCAN_MS * 1e-3) continue;
        scan = now;
        for (uint32_t i = 0; i < wish.clients; i++) ring(&clients[i]);
    }
    count.failures += begun - ended; /* after MOST seconds */
    report(seconds() - start, idle);
    return 0;
}
