/* A pool of threads that spin for a moment and then sleep.
 *
 * Stages follow each other within microseconds, so a waiting thread first spins; after that it sleeps and costs
 * nothing until the next run.
 */
#include "runtime.h"

enum { SPINS = 4000 };

struct pb_pool {
    _Atomic uint32_t generation; /* counts the tasks handed out; workers wait for it to change */
    _Atomic uint32_t phase;      /* counts the barriers passed */
    _Atomic uint32_t arrived;
    _Atomic uint32_t sleepers;
    _Atomic uint32_t leaving;
    int32_t threads;
    pb_task task;
    void *argument;
    size_t bytes;
    struct worker {
        pb_pool *pool;
        int32_t index;
        uintptr_t thread;
    } workers[];
};

static void sleep_while(pb_pool *pool, _Atomic uint32_t *word, uint32_t value)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != value)
            return;
        pb_relax();
    }
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(word) == value)
        pb_sleep(word, value);
    atomic_fetch_sub(&pool->sleepers, 1);
}

static void advance(pb_pool *pool, _Atomic uint32_t *word)
{
    atomic_fetch_add(word, 1);
    if (atomic_load(&pool->sleepers))
        pb_wake(word);
}

void pb_pool_barrier(pb_pool *pool)
{
    if (pool->threads == 1)
        return;
    const uint32_t phase = atomic_load_explicit(&pool->phase, memory_order_acquire);
    if (atomic_fetch_add(&pool->arrived, 1) + 1 == (uint32_t)pool->threads) {
        atomic_store(&pool->arrived, 0);
        advance(pool, &pool->phase);
    } else {
        sleep_while(pool, &pool->phase, phase);
    }
}

static void *work(void *argument)
{
    struct worker *self = argument;
    pb_pool *pool = self->pool;
    for (uint32_t seen = 0;; seen++) {
        sleep_while(pool, &pool->generation, seen);
        if (atomic_load(&pool->leaving))
            return NULL;
        pool->task(pool->argument, self->index);
        pb_pool_barrier(pool);
    }
}

pb_pool *pb_pool_create(int32_t threads)
{
    const size_t bytes = sizeof(pb_pool) + (size_t)threads * sizeof(struct worker);
    pb_pool *pool = pb_pages(bytes, false);
    if (!pool)
        return NULL;
    pool->bytes = bytes;
    pool->threads = 1;
    for (int32_t i = 1; i < threads; i++) {
        pool->workers[i].pool = pool;
        pool->workers[i].index = i;
        if (!pb_start_thread(&pool->workers[i].thread, work, &pool->workers[i])) {
            pb_pool_destroy(pool, false);
            return NULL;
        }
        pool->threads = i + 1;
    }
    return pool;
}

void pb_pool_run(pb_pool *pool, pb_task task, void *argument)
{
    pool->task = task;
    pool->argument = argument;
    if (pool->threads > 1)
        advance(pool, &pool->generation);
    task(argument, 0);
    pb_pool_barrier(pool);
}

void pb_pool_destroy(pb_pool *pool, bool inherited)
{
    if (!inherited) {
        atomic_store(&pool->leaving, 1);
        advance(pool, &pool->generation);
        for (int32_t i = 1; i < pool->threads; i++)
            pb_join_thread(pool->workers[i].thread);
    }
    pb_free_pages(pool, pool->bytes);
}
