/* Notes what a process spends its CPU time on, from within, for sampled.py.
 *
 * SIGPROF comes for each 4 ms of CPU time or so (a tick of the kernel). Python would look at it only when the next call
 * begins or ends, and could not tell a call of the system from the line that made it. So this handler notes first where
 * the processor was: in the kernel or not, and by which functions of C it came there. Then Python's own handler is
 * called, and adds the stack of Python when it can; until then samples wait in a ring, which has room for a minute.
 *
 * A program in C is sampled where this is preloaded and SAMPLER names a file: SIGRTMIN+3 begins, SIGRTMIN+4 writes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

enum { DEPTH = 24, RING = 16384 };

struct sample { int depth, kernel, main; void *at[DEPTH]; };

static struct sample ring[RING];
static volatile unsigned noted, taken;
static struct sigaction python;

/* -> whether the signal came at the end of a call of the system: the instruction before is that call. */
static int in_kernel(const ucontext_t *context, void **at) {
#if defined __x86_64__
    const uint8_t *code = (const uint8_t *)context->uc_mcontext.gregs[REG_RIP];
    *at = (void *)code;
    return code[-2] == 0x0f && code[-1] == 0x05;
#elif defined __aarch64__
    const uint32_t *code = (const uint32_t *)context->uc_mcontext.pc;
    *at = (void *)code;
    return code[-1] == 0xd4000001;
#else
#error "how is the kernel called by this processor?"
#endif
}

static void note(int number, siginfo_t *info, void *context) {
    int error = errno;
    unsigned place = noted;
    (void)info;
    if (place - taken < RING) {
        struct sample *s = &ring[place % RING];
        void *frames[DEPTH + 8], *at;
        s->kernel = in_kernel(context, &at), s->main = getpid() == gettid();
        int depth = backtrace(frames, DEPTH + 8), from = 0;
        while (from < depth && frames[from] != at) from++;  /* this handler, and what called it */
        if (from == depth) frames[from = 0] = at, depth = 1;
        s->depth = depth - from < DEPTH ? depth - from : DEPTH;
        memcpy(s->at, frames + from, (size_t)s->depth * sizeof *frames);
        noted = place + 1;
    }
    if (python.sa_handler != SIG_DFL && python.sa_handler != SIG_IGN) python.sa_handler(number);
    errno = error;
}

/* To be called once Python has a handler of its own. */
int sampler_install(void) {
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
    void *frames[2];
    backtrace(frames, 2);  /* loads what it needs, which a signal handler must not */
    action.sa_sigaction = note;
    return sigaction(SIGPROF, &action, &python);
}

int sampler_run(long microseconds) {
    struct itimerval every = {{0, microseconds}, {0, microseconds}};
    return setitimer(ITIMER_PROF, &every, NULL);
}

/* What the next sample was: "MODE FUNCTION". MODE is kernel or user, after native- where compiled code of castd was at
 * work, or after thread- in another thread than the first; FUNCTION is the nearest function of C that a library
 * exports, or "?".  -> whether there was one. */
int sampler_take(char *text, size_t size) {
    if (taken == noted) return 0;
    const struct sample *s = &ring[taken % RING];
    const char *function = "?";
    int native = 0;
    for (int i = 0; i < s->depth; i++) {
        Dl_info found;
        /* Of a caller it is the address after its call, which may be after its end. */
        if (!dladdr((char *)s->at[i] - (i || s->kernel), &found)) continue;
        if (i == 0 && found.dli_sname) function = found.dli_sname;
        if (found.dli_fname && strstr(found.dli_fname, "/_loop.")) native = 1;
        if (native || (found.dli_sname && !strcmp(found.dli_sname, "_PyEval_EvalFrameDefault"))) break;
    }
    const char *front = !s->main ? "thread-" : native ? "native-" : "";
    snprintf(text, size, "%s%s %s", front, s->kernel ? "kernel" : "user", function);
    taken++;
    return 1;
}

static void begin(int number) {
    (void)number;
    taken = noted;
    sampler_run(1000);
}

/* Writes each sample as a line. The program waits for events meanwhile, so it is in no function of the library. */
static void end(int number) {
    char text[256], made[4096];
    const char *path = getenv("SAMPLER");
    (void)number;
    sampler_run(0);
    snprintf(made, sizeof made, "%s.part", path);
    FILE *file = fopen(made, "w");
    if (!file) return;
    while (sampler_take(text, sizeof text)) fprintf(file, "%s\n", text);
    fclose(file);
    rename(made, path);
}

__attribute__((constructor)) static void preloaded(void) {
    if (!getenv("SAMPLER")) return;
    sampler_install();
    signal(SIGRTMIN + 3, begin), signal(SIGRTMIN + 4, end);
}
