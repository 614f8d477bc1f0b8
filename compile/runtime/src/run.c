/* Run the plan's stages, with a handle's model to oneself. */
#include "model.h"

enum { ROWS_BETWEEN = 16 };

static void log_block(pb_model *model, pb_log *log, int32_t block)
{
    log->records = model->records + 1 + (size_t)block * (size_t)pb_the_plan.call_count;
    log->time = pb_now();
}

/* Of a block the rows that are asked for, and those between that are few: each call reads all weights of its stage, which
 * takes as long as computing some rows. */
static void run_asked(const pb_stage *stage, const pb_context *context, char *scratch, int32_t row, int32_t rows,
                      pb_log *log, const bool *asked)
{
    for (int32_t first = row; first < row + rows; first++) {
        if (!asked[first])
            continue;
        int32_t end = first + 1;
        for (int32_t i = end; i < row + rows && i < end + ROWS_BETWEEN; i++)
            end = asked[i] ? i + 1 : end;
        stage->rows(context, scratch, first, end - first, log);
        first = end;
    }
}

static void run_stages(void *argument, int32_t thread)
{
    pb_model *model = argument;
    const pb_plan *plan = &pb_the_plan;
    const pb_context *context = &model->context;
    char *scratch = model->memory + pb_align(plan->arena_bytes) + model->thread_bytes * (size_t)thread;
    const pb_stage *stages = model->records ? plan->profiled_stages : plan->stages;
    pb_log log = {.thread = thread};
    const int32_t asked_stage = model->asked ? plan->output_stages[PB_TASK_OUTPUT] : -1;
    const int32_t last = asked_stage < 0 ? plan->stage_count - 1 : asked_stage;
    for (int32_t s = 0; s <= last; s++) {
        const pb_stage *stage = &stages[s];
        if (stage->serial && thread == 0) {
            if (model->records)
                log_block(model, &log, 0);
            for (int32_t i = 0; i < context->sequence_count; i++)
                stage->serial(context, scratch, context->sequences[i].first, context->sequences[i].tokens, &log);
        }
        while (stage->rows) {
            const int32_t block = atomic_fetch_add_explicit(&model->next_block[s], 1, memory_order_relaxed);
            const int32_t row = block * context->block_rows;
            if (row >= context->tokens)
                break;
            const int32_t left = context->tokens - row;
            const int32_t rows = left < context->block_rows ? left : context->block_rows;
            if (model->records)
                log_block(model, &log, block);
            if (s == asked_stage)
                run_asked(stage, context, scratch, row, rows, &log, model->asked);
            else
                stage->rows(context, scratch, row, rows, &log);
        }
        if (s == last)
            return;
        /* Whoever comes after the barrier sees what was set before it, and none later asks about this stage. */
        if (thread == 0 && model->cancel && *model->cancel && model->last_stage == INT32_MAX)
            model->last_stage = s;
        pb_pool_barrier(model->pool);
        if (model->last_stage <= s)
            return;
    }
}

static void run_profiled(pb_model *model)
{
    memset(model->records, 0, model->records_bytes);
    const int64_t start = pb_now();
    pb_pool_run(model->pool, run_stages, model);
    model->records[0] = (pocketbert_record){.call = -1, .start_ns = start, .end_ns = pb_now()};
    model->record_count = 1;
    for (size_t i = 1; i < model->records_bytes / sizeof *model->records; i++)
        if (model->records[i].end_ns) /* blocks that did not exist left none */
            model->records[model->record_count++] = model->records[i];
}

/* Where the in- and outputs of one sequence are in the caller's. */
static void choose_sequence(pb_model *model, const pocketbert_tensor *tensors, int32_t count, int32_t sequence,
                            pocketbert_tensor *one)
{
    for (int32_t i = 0; i < count; i++) {
        const uintptr_t begin = (uintptr_t)tensors[i].data, bytes = pb_end_of(&tensors[i]) - begin;
        one[i].data = (char *)tensors[i].data + bytes / (uintptr_t)model->sequences * (uintptr_t)sequence;
    }
}

/* A batch's sequences follow each other: each has all threads, weights stay in the caches, and none is padded. */
int32_t pb_run_model(pb_model *model, const pocketbert_tensor *inputs, int32_t input_count,
                     const pocketbert_tensor *outputs, int32_t output_count)
{
    static const char cancelled[] = "the run was cancelled: options->cancel is set";
    int32_t status = pb_check(model, inputs, input_count, outputs, output_count);
    for (int32_t sequence = 0; status == POCKETBERT_OK && sequence < model->sequences; sequence++) {
        if (model->cancel && *model->cancel)
            return pb_fail(model, POCKETBERT_ERROR_CANCELLED, cancelled);
        choose_sequence(model, inputs, input_count, sequence, model->one);
        choose_sequence(model, outputs, output_count, sequence, model->one + input_count);
        model->last_stage = INT32_MAX;
        for (int32_t s = 0; s < pb_the_plan.stage_count; s++)
            atomic_store_explicit(&model->next_block[s], 0, memory_order_relaxed);
        if (model->records)
            run_profiled(model);
        else
            pb_pool_run(model->pool, run_stages, model);
        if (model->last_stage != INT32_MAX)
            status = pb_fail(model, POCKETBERT_ERROR_CANCELLED, cancelled);
    }
    return status;
}

int32_t pb_begin_run(const pocketbert_model *handle, pb_slot **slot)
{
    const int32_t status = pb_handle_enter(handle, slot);
    if (status != POCKETBERT_OK)
        return pb_fail(NULL, status, pb_handle_error(status));
    pb_model *model = pb_handle_model(*slot);
    if (!atomic_exchange(&model->busy, 1))
        return POCKETBERT_OK;
    pb_fail(model, POCKETBERT_ERROR_BUSY, "another thread is running this model: wait for it, or open another");
    pb_handle_leave(*slot);
    return POCKETBERT_ERROR_BUSY;
}

int32_t pb_end_run(pb_slot *slot, int32_t status)
{
    atomic_store(&pb_handle_model(slot)->busy, 0);
    pb_handle_leave(slot);
    return status;
}

PB_PUBLIC int32_t PB(run)(pocketbert_model *handle, const pocketbert_tensor *inputs, int32_t input_count,
                          const pocketbert_tensor *outputs, int32_t output_count)
{
    pb_slot *slot;
    const int32_t status = pb_begin_run(handle, &slot);
    if (status != POCKETBERT_OK)
        return status;
    return pb_end_run(slot, pb_run_model(pb_handle_model(slot), inputs, input_count, outputs, output_count));
}
