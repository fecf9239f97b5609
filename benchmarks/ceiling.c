/* The ceiling of castd's benchmarks: as little as a server can do and still deliver files by TFTP. No peer: a measure.
 *
 *   ceiling HOST PORT ROOT
 *
 * Reads only, octet mode, blksize, windowsize and multicast (RFC 2090; of files with as many blocks as there are numbers,
 * and who asks when the first block is on its way begins another group). Each file is read once for each block size and
 * kept as the datagrams it is sent by (an image), so a block is one send and a window one send with UDP_SEGMENT. Each
 * transfer has a connected socket in one epoll set, each group one that is not connected. What a server for use needs is
 * not here: no limits, no rules, no log, no look at whether a file changed, no protection against strangers, a fixed
 * timeout. So nothing in this table can be much quicker.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/udp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { RRQ = 1, DATA = 3, ACK = 4, ERROR = 5, OACK = 6 };
/* At most 64 segments and 65,507 octets a send (older kernels, UDP); 0.2 s until a repetition, 80 of them. */
enum { SEGMENTS = 64, LARGEST = 65507, MOST_EVENTS = 256, BUCKETS = 4096, TIMEOUT_MS = 200, TRIES = 80 };
/* Events of a group have this bit in their pointer. */
enum { GROUP = 1 };

struct image { struct image *next; char name[256]; uint32_t blksize; uint8_t *at; uint64_t size, blocks; };

struct transfer {
    struct transfer *next, *before;
    const struct image *image;
    int fd, tries;
    uint32_t window;
    uint64_t acked; /* blocks; the datagram before the first is the OACK */
    long moved;     /* ms */
    uint8_t oack[128];
    size_t oack_size;
};

struct member { struct member *next; struct sockaddr_in peer; };

struct group {
    struct group *next;
    const struct image *image;
    int fd, tries;
    bool begun, answered;
    uint32_t acked;
    long moved;
    struct sockaddr_in to;
    struct member *members; /* the first is the master */
};

static struct image *images[BUCKETS];
static struct group *groups;
static struct transfer all = {.next = &all, .before = &all};
static struct sockaddr_in here;
static const char *root;
static int set;
static long now;

static void die(const char *what) { perror(what); exit(1); }

static long milliseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* -> the whole file; NULL if there is none. */
static uint8_t *whole(const char *name, uint64_t *size) {
    char path[4096];
    struct stat status;
    uint8_t *at = NULL;
    snprintf(path, sizeof path, "%s/%s", root, name);
    int fd = strstr(name, "..") ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return NULL;
    if (fstat(fd, &status) == 0 && (at = malloc((size_t)status.st_size + 1)) != NULL) {
        *size = (uint64_t)status.st_size;
        if (read(fd, at, *size) != status.st_size) free(at), at = NULL;
    }
    close(fd);
    return at;
}

static const struct image *image_of(const char *name, uint32_t blksize) {
    uint32_t hash = blksize;
    for (const char *c = name; *c; c++) hash = hash * 31 + (uint8_t)*c;
    struct image **slot = &images[hash % BUCKETS];
    for (struct image *each = *slot; each; each = each->next)
        if (each->blksize == blksize && !strcmp(each->name, name)) return each;
    uint64_t size = 0;
    uint8_t *file = strlen(name) < sizeof (*slot)->name ? whole(name, &size) : NULL;
    if (!file) return NULL;
    struct image *made = calloc(1, sizeof *made);
    made->blocks = size / blksize + 1, made->size = size + 4 * made->blocks, made->blksize = blksize;
    made->at = malloc(made->size), made->next = *slot, *slot = made;
    strcpy(made->name, name);
    for (uint64_t block = 0; block < made->blocks; block++) {
        uint8_t *to = made->at + block * (blksize + 4);
        uint64_t left = size - block * blksize;
        to[0] = 0, to[1] = DATA, to[2] = (uint8_t)((block + 1) >> 8), to[3] = (uint8_t)(block + 1);
        memcpy(to + 4, file + block * blksize, left < blksize ? left : blksize);
    }
    free(file);
    return made;
}

static void end(struct transfer *t) {
    close(t->fd);
    t->next->before = t->before, t->before->next = t->next;
    free(t);
}

/* What follows the acknowledged block: a window, in as few sends as the kernel allows. A full socket loses the rest,
 * like a wire; the timeout brings it back. */
static void send_next(struct transfer *t) {
    uint64_t stride = t->image->blksize + 4, most = LARGEST / stride < SEGMENTS ? LARGEST / stride : SEGMENTS;
    uint64_t from = t->acked, until = from + t->window < t->image->blocks ? from + t->window : t->image->blocks;
    while (from < until) {
        uint64_t to = from + most < until ? from + most : until;
        uint64_t end = to * stride < t->image->size ? to * stride : t->image->size;
        if (send(t->fd, t->image->at + from * stride, end - from * stride, 0) < 0) return;
        from = to;
    }
}

static void speak(struct transfer *t) {
    if (t->oack_size) send(t->fd, t->oack, t->oack_size, 0);
    else send_next(t);
}

static void refuse(int fd, const struct sockaddr_in *to) {
    static const uint8_t packet[] = "\0\5\0\1no";
    sendto(fd, packet, sizeof packet, 0, (const struct sockaddr *)to, sizeof *to);
}

/* Tells a member of a group who it is; the next word is the master's. */
static void grant(const struct group *g, const struct member *m, bool master) {
    uint8_t packet[128] = {0, OACK};
    char address[INET_ADDRSTRLEN];
    size_t n = 2;
    inet_ntop(AF_INET, &g->to.sin_addr, address, sizeof address);
    n += (size_t)sprintf((char *)packet + n, "blksize") + 1;
    n += (size_t)sprintf((char *)packet + n, "%u", g->image->blksize) + 1;
    n += (size_t)sprintf((char *)packet + n, "multicast") + 1;
    n += (size_t)sprintf((char *)packet + n, "%s,%u,%d", address, ntohs(g->to.sin_port), master) + 1;
    sendto(g->fd, packet, n, 0, (const struct sockaddr *)&m->peer, sizeof m->peer);
}

static void send_group(const struct group *g) {
    uint64_t stride = g->image->blksize + 4, from = g->acked * stride, left = g->image->size - from;
    sendto(g->fd, g->image->at + from, left < stride ? left : stride, 0, (const struct sockaddr *)&g->to, sizeof g->to);
}

static void join(const struct image *image, const struct sockaddr_in *from) {
    static uint16_t many;
    struct group *g = groups;
    while (g && (g->begun || g->image != image)) g = g->next;
    if (!g) {
        struct sockaddr_in own = here;
        g = calloc(1, sizeof *g);
        g->image = image, g->next = groups, groups = g, g->moved = now, own.sin_port = 0, many++;
        g->to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(1758)};
        g->to.sin_addr.s_addr = htonl(0xefff2200 + many % 256); /* 239.255.34.x */
        struct epoll_event interest = {.events = EPOLLIN, .data.ptr = (char *)g + GROUP};
        g->fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (g->fd < 0 || bind(g->fd, (struct sockaddr *)&own, sizeof own) < 0) die("a group's socket");
        if (setsockopt(g->fd, IPPROTO_IP, IP_MULTICAST_IF, &here.sin_addr, sizeof here.sin_addr) < 0) die("multicast");
        epoll_ctl(set, EPOLL_CTL_ADD, g->fd, &interest);
    }
    struct member *m = calloc(1, sizeof *m), **last = &g->members;
    while (*last) last = &(*last)->next;
    m->peer = *from, *last = m;
    grant(g, m, false);
}

static void hear_group(struct group *g) {
    uint8_t packet[2048];
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    ssize_t n = recvfrom(g->fd, packet, sizeof packet, 0, (struct sockaddr *)&from, &length);
    struct member *master = g->members;
    if (n < 4 || packet[1] != ACK || !g->begun) return;
    if (from.sin_port != master->peer.sin_port || from.sin_addr.s_addr != master->peer.sin_addr.s_addr) return;
    uint32_t acked = (uint32_t)(packet[2] << 8 | packet[3]);
    if (g->answered && acked <= g->acked) return;
    g->acked = acked, g->moved = now, g->tries = 0, g->answered = true;
    if (g->acked < g->image->blocks) return send_group(g);
    g->members = master->next, g->answered = false;
    free(master);
    if (g->members) return grant(g, g->members, true);
    struct group **at = &groups;
    while (*at != g) at = &(*at)->next;
    *at = g->next;
    close(g->fd);
    free(g);
}

/* A group begins when there was time for all to join. */
static void groups_late(void) {
    for (struct group *g = groups; g; g = g->next) {
        if (now - g->moved < TIMEOUT_MS) continue;
        if (++g->tries > TRIES) die("a group");
        g->moved = now, g->begun = true;
        if (g->answered) send_group(g);
        else grant(g, g->members, true);
    }
}

static void request(int listener, const uint8_t *packet, size_t size, const struct sockaddr_in *from) {
    const char *fields[16], *at = (const char *)packet + 2, *end = (const char *)packet + size;
    int many = 0;
    for (const char *next; at < end && many < 16 && (next = memchr(at, 0, (size_t)(end - at))); at = next + 1)
        fields[many++] = at;
    if (many < 2 || packet[1] != RRQ) return refuse(listener, from);
    struct transfer *t = calloc(1, sizeof *t);
    uint32_t blksize = 512;
    bool several = false;
    uint8_t *oack = t->oack + 2;
    t->oack[1] = OACK, t->window = 1;
    for (int i = 2; i + 1 < many; i += 2) {
        uint32_t value = (uint32_t)atol(fields[i + 1]);
        if (!strcasecmp(fields[i], "blksize") && value >= 8 && value <= 1468) blksize = value;
        else if (!strcasecmp(fields[i], "multicast")) several = true;
        else if (!strcasecmp(fields[i], "windowsize") && value >= 1 && value <= 64) t->window = value;
        else continue;
        oack += sprintf((char *)oack, "%.16s", fields[i]) + 1, oack += sprintf((char *)oack, "%u", value) + 1;
    }
    t->oack_size = oack > t->oack + 2 ? (size_t)(oack - t->oack) : 0;
    struct sockaddr_in own = here;
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = t};
    own.sin_port = 0;
    if (!(t->image = image_of(fields[0], blksize))) return free(t), refuse(listener, from);
    if (several && t->image->blocks <= UINT16_MAX) {
        join(t->image, from);
        return free(t);
    }
    t->fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (t->fd < 0 || bind(t->fd, (struct sockaddr *)&own, sizeof own) < 0) die("a transfer's socket");
    if (connect(t->fd, (const struct sockaddr *)from, sizeof *from) < 0) die("connect");
    int segment = (int)blksize + 4;
    if (t->window > 1) setsockopt(t->fd, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment);
    epoll_ctl(set, EPOLL_CTL_ADD, t->fd, &interest);
    t->next = all.next, t->before = &all, all.next->before = t, all.next = t;
    t->moved = now;
    speak(t);
}

static void hear(struct transfer *t) {
    uint8_t packet[2048];
    ssize_t n = recv(t->fd, packet, sizeof packet, 0);
    if (n < 0) return;
    if (n < 4 || packet[1] != ACK) return end(t);
    uint16_t ahead = (uint16_t)((packet[2] << 8 | packet[3]) - (uint16_t)t->acked);
    if (t->oack_size ? ahead : !ahead || ahead > t->window) return;
    t->acked += ahead, t->oack_size = 0, t->moved = now, t->tries = 0;
    if (t->acked >= t->image->blocks) end(t);
    else send_next(t);
}

static void repeat_late(void) {
    for (struct transfer *t = all.next, *next; t != &all; t = next) {
        next = t->next;
        if (now - t->moved < TIMEOUT_MS) continue;
        if (++t->tries > TRIES) end(t);
        else t->moved = now, speak(t);
    }
}

int main(int argc, char **argv) {
    struct epoll_event events[MOST_EVENTS], interest = {.events = EPOLLIN, .data.ptr = NULL};
    struct rlimit limit;
    int listener = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), size = 4 << 20;
    if (argc != 4) return fprintf(stderr, "ceiling HOST PORT ROOT\n"), 2;
    root = argv[3];
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    here = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    if (inet_pton(AF_INET, argv[1], &here.sin_addr) != 1) return 2;
    if (setsockopt(listener, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) < 0)
        setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) < 0) die("bind");
    if ((set = epoll_create1(EPOLL_CLOEXEC)) < 0 || epoll_ctl(set, EPOLL_CTL_ADD, listener, &interest) < 0) die("epoll");
    for (long scan = now = milliseconds();;) {
        int n = epoll_wait(set, events, MOST_EVENTS, 50);
        now = milliseconds();
        for (int i = 0; i < n; i++) {
            char *at = events[i].data.ptr;
            if (at) {
                if ((uintptr_t)at & GROUP) hear_group((struct group *)(at - GROUP));
                else hear((struct transfer *)at);
                continue;
            }
            uint8_t packet[2048];
            struct sockaddr_in from;
            for (socklen_t length = sizeof from; ; length = sizeof from) {
                ssize_t got = recvfrom(listener, packet, sizeof packet, 0, (struct sockaddr *)&from, &length);
                if (got < 0) break;
                if (got >= 4) request(listener, packet, (size_t)got, &from);
            }
        }
        if (now - scan >= 50) scan = now, repeat_late(), groups_late();
    }
}
