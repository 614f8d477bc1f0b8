/* When each kernel ran: kept by a second set of stage functions, which only a model opened with `profile` runs. */
#include "runtime.h"

void pb_log_call(pb_log *log, int32_t call)
{
    const int64_t now = pb_now();
    log->records[call] = (pocketbert_record){.call = call, .thread = log->thread, .start_ns = log->time, .end_ns = now};
    log->time = now;
}
