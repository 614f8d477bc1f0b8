/* When each kernel ran: kept by a second set of stage functions, which only a model opened with `profile` runs. */
#include "runtime.h"

int64_t pb_now(void)
{
    enum { CLOCK_MONOTONIC = 1 };
    long time[2]; /* struct timespec, on every 64-bit Linux */
    clock_gettime(CLOCK_MONOTONIC, time);
    return (int64_t)time[0] * 1000000000 + time[1];
}

void pb_log_call(pb_log *log, int32_t call)
{
    const int64_t now = pb_now();
    log->records[call] = (pocketbert_record){.call = call, .thread = log->thread, .start_ns = log->time, .end_ns = now};
    log->time = now;
}
