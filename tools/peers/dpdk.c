/*
 * DPDK's tables at the job of ours: rte_hash (lock-free for readers), rte_lpm and rte_fib, built against libdpdk and
 * driven line by line over standard input, so that whoever measures can interleave it with others.
 *
 *   hash USERS              a table of so many users           -> bytes an entry
 *   hash_run KEYS BULK W    looks up the 16-byte keys of a file, BULK at a time (1: one by one);
 *                           W 1: beside a writer               -> nanoseconds, sum, writes, keys found
 *   lpm ROUTES              a table of these routes (16 bytes each: address, length, next hop, 0; native order)
 *   fib ROUTES BYTES W      the same as a DIR-24-8 with entries of so many bytes, looked up by W 0: scalar code;
 *                           1: vector code, where the CPU has it                      -> bytes of all
 *   lpm_run ADDRESSES       looks up the 4-byte addresses of a file, 64 at a time     -> nanoseconds, sum
 *   fib_run ADDRESSES       the same in the other table                               -> nanoseconds, sum
 *
 * Each answer is one line: "ok" and numbers, or "no" and why. User number n has the Push ID and the value that
 * benches/operator and benches/measure give it. All tables and values lie in memory that was advised to be huge pages.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_fib.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>
#include <rte_lpm.h>
#include <rte_malloc.h>
#include <rte_prefetch.h>
#include <rte_rib.h>
#include <rte_version.h>

#define BULK_MAX 64
#define HUGE_PAGE (2UL << 20)

struct key {
    uint8_t bytes[16];
};

struct value {
    uint64_t words[8];
} __attribute__((aligned(64)));

struct route {
    uint32_t address, length, next_hop, zero;
};

static uint64_t mix(uint64_t n) {
    uint64_t z = n + 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static struct key key_of(uint64_t n) {
    uint64_t halves[2] = {__builtin_bswap64(mix(n) >> 4 | 3UL << 60), __builtin_bswap64(mix(~n))};
    struct key key;
    memcpy(key.bytes, halves, sizeof key.bytes);
    return key;
}

static struct value value_of(uint64_t n) {
    return (struct value){{n, ~n, n << 1, mix(n), n << 3, n << 4, n << 5, n << 6}};
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void no(const char *why) {
    printf("no %s\n", why);
    fflush(stdout);
}

/* Memory on huge pages where they are granted. */
static void *huge(size_t bytes) {
    bytes = (bytes + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
    char *all = mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED)
        return NULL;
    char *start = (char *)(((uintptr_t)all + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
    madvise(start, bytes, MADV_HUGEPAGE);
    return start;
}

/* A heap of DPDK's over such memory: its number as a socket, or -1. */
static int heap(const char *name, size_t bytes) {
    bytes = (bytes + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
    void *memory = huge(bytes);
    if (!memory || rte_malloc_heap_create(name) ||
        rte_malloc_heap_memory_add(name, memory, bytes, NULL, 0, HUGE_PAGE))
        return -1;
    return rte_malloc_heap_get_socket(name);
}

static size_t heap_used(int socket) {
    struct rte_malloc_socket_stats stats;
    return rte_malloc_get_socket_stats(socket, &stats) ? 0 : stats.heap_allocsz_bytes;
}

/* A whole file, mapped; NULL when it cannot be. */
static void *file(const char *path, size_t *bytes) {
    int fd = open(path, O_RDONLY);
    struct stat facts;
    if (fd < 0 || fstat(fd, &facts))
        return NULL;
    *bytes = (size_t)facts.st_size;
    void *mapped = mmap(NULL, *bytes, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    close(fd);
    return mapped == MAP_FAILED ? NULL : mapped;
}

static struct rte_hash *table;
static struct value *values;
static uint64_t users;
static int writer_cpu = -1;

static void make_hash(uint64_t count) {
    users = count;
    int socket = heap("hash", count * 160 + (64UL << 20));
    if (socket < 0)
        return no("no memory");
    struct rte_hash_parameters parameters = {
        .name = "users",
        .entries = (uint32_t)(count + count / 8 + 64),
        .key_len = sizeof(struct key),
        .hash_func = rte_hash_crc,
        .socket_id = socket,
        .extra_flag = RTE_HASH_EXTRA_FLAGS_RW_CONCURRENCY_LF,
    };
    table = rte_hash_create(&parameters);
    values = huge((size_t)parameters.entries * sizeof *values);
    if (!table || !values)
        return no(rte_strerror(rte_errno));
    for (uint64_t n = 0; n < count; n++) {
        struct key key = key_of(n);
        int32_t at = rte_hash_add_key(table, &key);
        if (at < 0)
            return no("an insertion failed");
        values[at] = value_of(n);
        if (rte_hash_add_key_data(table, &key, &values[at]))
            return no("an insertion failed");
    }
    double each = (double)(heap_used(socket) + count * sizeof *values) / (double)count;
    printf("ok %.1f\n", each);
    fflush(stdout);
}

static volatile bool stop;
static uint64_t writes;

static void *write_on(void *unused) {
    (void)unused;
    if (writer_cpu >= 0) {
        cpu_set_t cpus;
        CPU_ZERO(&cpus);
        CPU_SET(writer_cpu, &cpus);
        pthread_setaffinity_np(pthread_self(), sizeof cpus, &cpus);
    }
    for (uint64_t k = 0; !stop; k++) {
        uint64_t n = (uint64_t)(((unsigned __int128)mix(k) * users) >> 64);
        struct key key = key_of(n);
        void *value;
        /* The value stays what it is, so that readers' answers can be checked; it is published anew. */
        if (rte_hash_lookup_data(table, &key, &value) >= 0)
            rte_hash_add_key_data(table, &key, value);
        __atomic_store_n(&writes, k + 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void run_hash(const char *path, unsigned bulk, bool beside) {
    size_t bytes;
    struct key *keys = file(path, &bytes);
    if (!keys || !table || bulk < 1 || bulk > BULK_MAX)
        return no("hash first, a file, at most 64");
    size_t count = bytes / sizeof *keys;
    pthread_t writer;
    stop = false;
    writes = 0;
    if (beside && pthread_create(&writer, NULL, write_on, NULL))
        return no("no thread");
    while (beside && !__atomic_load_n(&writes, __ATOMIC_RELAXED))
        ;
    uint64_t before = __atomic_load_n(&writes, __ATOMIC_RELAXED), sum = 0, found = 0, start = now_ns();
    if (bulk == 1) {
        for (size_t at = 0; at < count; at++) {
            void *value;
            if (rte_hash_lookup_data(table, &keys[at], &value) >= 0) {
                sum += ((struct value *)value)->words[3];
                found++;
            }
        }
    } else {
        for (size_t at = 0; at < count; at += bulk) {
            unsigned some = count - at < bulk ? (unsigned)(count - at) : bulk;
            const void *pointers[BULK_MAX];
            void *data[BULK_MAX];
            uint64_t hits = 0;
            for (unsigned k = 0; k < some; k++)
                pointers[k] = &keys[at + k];
            rte_hash_lookup_bulk_data(table, pointers, some, &hits, data);
            for (uint64_t left = hits; left; left &= left - 1)
                rte_prefetch0(data[__builtin_ctzll(left)]);
            for (uint64_t left = hits; left; left &= left - 1) {
                sum += ((struct value *)data[__builtin_ctzll(left)])->words[3];
                found++;
            }
        }
    }
    uint64_t took = now_ns() - start;
    uint64_t written = __atomic_load_n(&writes, __ATOMIC_RELAXED) - before;
    if (beside) {
        stop = true;
        pthread_join(writer, NULL);
    }
    munmap(keys, bytes);
    printf("ok %lu %lu %lu %lu\n", took, sum, written, found);
    fflush(stdout);
}

static struct rte_lpm *lpm;
static struct rte_fib *fib;
static unsigned tables;

static void make_routes(const char *path, unsigned entry_bytes, bool vector) {
    size_t bytes;
    struct route *routes = file(path, &bytes);
    if (!routes)
        return no("no such file");
    size_t count = bytes / sizeof *routes;
    /* Groups of 256 for what is longer than 24 bits: at most one a route. rte_fib wants more of them on the way there. */
    unsigned long_routes = 1024;
    for (size_t at = 0; at < count; at++)
        long_routes += routes[at].length > 24;
    char name[32];
    snprintf(name, sizeof name, "routes%u", tables++);
    int socket = heap(name, (256UL << 20) + (size_t)long_routes * 8192 + count * 1536);
    if (socket < 0)
        return no("no memory");
    int failed = 0;
    if (entry_bytes == 0) {
        struct rte_lpm_config config = {.max_rules = (uint32_t)count + 1, .number_tbl8s = long_routes};
        rte_lpm_free(lpm);
        lpm = rte_lpm_create(name, socket, &config);
        for (size_t at = 0; lpm && at < count && !failed; at++)
            failed = rte_lpm_add(lpm, routes[at].address, (uint8_t)routes[at].length, routes[at].next_hop);
    } else {
        struct rte_fib_conf config = {
            .type = RTE_FIB_DIR24_8,
            .default_nh = 0,
            .max_routes = (int)count * 2 + 64,
            .rib_ext_sz = 0,
            .dir24_8 = {
                .nh_sz = entry_bytes == 2 ? RTE_FIB_DIR24_8_2B : RTE_FIB_DIR24_8_4B,
                .num_tbl8 = entry_bytes == 2 && 4 * long_routes > 32767 ? 32767 : 4 * long_routes,
            },
        };
        rte_fib_free(fib);
        fib = rte_fib_create(name, socket, &config);
        for (size_t at = 0; fib && at < count && !failed; at++)
            failed = rte_fib_add(fib, routes[at].address, (uint8_t)routes[at].length, routes[at].next_hop);
    }
    munmap(routes, bytes);
    if ((entry_bytes == 0 && !lpm) || (entry_bytes != 0 && !fib))
        return no(rte_strerror(rte_errno));
    if (failed)
        return no(rte_strerror(-failed));
    enum rte_fib_lookup_type code =
        vector ? RTE_FIB_LOOKUP_DIR24_8_VECTOR_AVX512 : RTE_FIB_LOOKUP_DIR24_8_SCALAR_MACRO;
    if (entry_bytes != 0 && rte_fib_select_lookup(fib, code))
        return no("the CPU lacks AVX-512, or DPDK was built without it");
    printf("ok %.1f\n", (double)heap_used(socket) / (double)count);
    fflush(stdout);
}

static void run_routes(const char *path, bool use_fib) {
    size_t bytes;
    uint32_t *addresses = file(path, &bytes);
    if (!addresses || (use_fib ? !fib : !lpm))
        return no("a table first, and a file");
    size_t count = bytes / sizeof *addresses;
    uint64_t sum = 0, start = now_ns();
    for (size_t at = 0; at < count; at += BULK_MAX) {
        unsigned some = count - at < BULK_MAX ? (unsigned)(count - at) : BULK_MAX;
        if (use_fib) {
            uint64_t hops[BULK_MAX];
            rte_fib_lookup_bulk(fib, addresses + at, hops, (int)some);
            for (unsigned k = 0; k < some; k++)
                sum += hops[k];
        } else {
            uint32_t hops[BULK_MAX];
            rte_lpm_lookup_bulk(lpm, addresses + at, hops, some);
            for (unsigned k = 0; k < some; k++)
                sum += hops[k] & RTE_LPM_LOOKUP_SUCCESS ? hops[k] & 0xFFFFFF : 0;
        }
    }
    uint64_t took = now_ns() - start;
    munmap(addresses, bytes);
    printf("ok %lu %lu\n", took, sum);
    fflush(stdout);
}

int main(int argc, char **argv) {
    /* One argument each: the reader's CPU, the writer's. */
    char cpu[16];
    snprintf(cpu, sizeof cpu, "%d", argc > 1 ? atoi(argv[1]) : 0);
    writer_cpu = argc > 2 ? atoi(argv[2]) : -1;
    char *eal[] = {argv[0], "-l", cpu, "--no-huge", "--no-shconf", "--no-pci", "-m", "64", "--no-telemetry",
                   "--log-level=critical", "--force-max-simd-bitwidth=512"};
    if (rte_eal_init((int)(sizeof eal / sizeof *eal), eal) < 0) {
        no(rte_strerror(rte_errno));
        return 1;
    }
    printf("ok %s\n", rte_version());
    fflush(stdout);
    char line[4096], word[32], path[3072];
    while (fgets(line, sizeof line, stdin)) {
        unsigned long a = 0, b = 0;
        path[0] = 0;
        if (sscanf(line, "hash_run %3071s %lu %lu", path, &a, &b) == 3)
            run_hash(path, (unsigned)a, b);
        else if (sscanf(line, "hash %lu", &a) == 1)
            make_hash(a);
        else if (sscanf(line, "lpm_run %3071s", path) == 1)
            run_routes(path, false);
        else if (sscanf(line, "fib_run %3071s", path) == 1)
            run_routes(path, true);
        else if (sscanf(line, "lpm %3071s", path) == 1)
            make_routes(path, 0, false);
        else if (sscanf(line, "fib %3071s %lu %lu", path, &a, &b) == 3)
            make_routes(path, (unsigned)a, b);
        else
            no(sscanf(line, "%31s", word) == 1 ? word : "nothing");
    }
    return 0;
}
