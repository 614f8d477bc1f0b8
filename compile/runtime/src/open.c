/* Open and close a model: which level, cores and threads it takes, and its memory. */
#include "model.h"

enum {
    MAX_THREADS = 64,
    BLOCKS_OF_UNEQUAL_CORES = 3, /* a thread */
    OPTIONS_SIZE_1 = 16,         /* of the first version, which ends before `cores` */
};

const pb_level *pb_choose_level(void)
{
    const uint32_t features = pb_cpu_features();
    for (int32_t i = pb_the_plan.level_count - 1; i >= 0; i--)
        if ((features & pb_the_plan.levels[i].features) == pb_the_plan.levels[i].features)
            return &pb_the_plan.levels[i];
    return NULL;
}

/* UINT64_MAX stands for all that there are. Returns whether there are all of those that are named. */
static bool choose_cores(pocketbert_options *options)
{
    const uint64_t present = options->cores ? pb_present_cores() : 0;
    if (present && options->cores == UINT64_MAX)
        options->cores = present;
    return !present || !(options->cores & ~present);
}

static int32_t choose_threads(const pocketbert_options *options, int32_t cores)
{
    int32_t threads = options->threads ? options->threads : pb_the_plan.default_threads;
    if (threads == 0)
        threads = cores < 4 ? cores : 4;
    return threads < pb_the_plan.tokens ? threads : pb_the_plan.tokens;
}

int32_t pb_block_rows(const pb_model *model, int32_t tokens)
{
    const int32_t rows = (tokens + model->blocks - 1) / model->blocks;
    return model->threads == 1 ? rows : (rows + 3) & ~3;
}

struct affinity {
    uint64_t cores;
    _Atomic bool refused;
};

static void set_affinity(void *argument, int32_t thread)
{
    struct affinity *affinity = argument;
    if (thread != 0 && !pb_bind_thread(affinity->cores))
        affinity->refused = true;
}

static void destroy(pb_model *model, bool inherited)
{
    for (int32_t i = 0; model->lanes && i < model->threads; i++)
        if (model->lanes[i])
            destroy(model->lanes[i], inherited);
    if (model->lanes)
        pb_free_pages(model->lanes, (size_t)model->threads * sizeof *model->lanes);
    if (model->pool)
        pb_pool_destroy(model->pool, inherited);
    if (model->memory)
        pb_free_pages(model->memory, model->memory_bytes);
    if (model->records)
        pb_free_pages(model->records, 2 * model->records_bytes);
    pb_free_pages(model, model->bytes);
}

static int32_t prepare(pb_model *model, const pocketbert_options *options)
{
    const pb_plan *plan = &pb_the_plan;
    model->error = "no error";
    const pb_cores cores = pb_find_cores(options->cores);
    model->threads = choose_threads(options, cores.count);
    model->blocks = model->threads * (cores.unequal && model->threads > 1 ? BLOCKS_OF_UNEQUAL_CORES : 1);
    model->context.block_rows = pb_block_rows(model, plan->tokens);
    model->context.workspace_offset = pb_align(plan->scratch_row_bytes * (size_t)model->context.block_rows + PB_SLACK);
    model->thread_bytes = model->context.workspace_offset + pb_align(plan->workspace_bytes);
    const size_t text_offset = pb_align(plan->arena_bytes) + model->thread_bytes * (size_t)model->threads;
    const size_t one_offset = text_offset + (PB_PIECES ? 3 * sizeof *model->text * (size_t)plan->tokens : 0);
    model->memory_bytes = one_offset + sizeof *model->one * (size_t)(plan->input_count + plan->output_count);
    model->memory = model->context.arena = pb_pages(model->memory_bytes, true);
    if (!model->memory)
        return pb_fail(NULL, POCKETBERT_ERROR_MEMORY, "open: out of memory for the tensors");
    model->text = (int64_t *)(void *)(model->memory + text_offset);
    model->one = (pocketbert_tensor *)(void *)(model->memory + one_offset);
    model->context.inputs = model->one;
    model->context.outputs = model->one + plan->input_count;
    if (options->profile) {
        model->records_bytes = (1 + (size_t)plan->call_count * (size_t)model->blocks) * sizeof *model->records;
        model->records = pb_pages(2 * model->records_bytes, true);
        if (!model->records)
            return pb_fail(NULL, POCKETBERT_ERROR_MEMORY, "open: out of memory for the profile");
        model->snapshot = model->records + model->records_bytes / sizeof *model->records;
    }
    model->pool = pb_pool_create(model->threads);
    if (!model->pool)
        return pb_fail(NULL, POCKETBERT_ERROR_THREAD, "open: threads could not be created");
    struct affinity affinity = {.cores = options->cores ? options->cores : cores.big};
    if (affinity.cores)
        pb_pool_run(model->pool, set_affinity, &affinity);
    if (options->cores && affinity.refused)
        return pb_fail(NULL, POCKETBERT_ERROR_ARGUMENT, "open: options->cores names no core that this process may use");
    return POCKETBERT_OK;
}

/* *created: NULL on failure. */
static int32_t create(const pocketbert_options *options, pb_model **created)
{
    *created = NULL;
    const pb_level *level = pb_choose_level();
    if (!level)
        return pb_fail(NULL, POCKETBERT_ERROR_CPU, pb_cpu_lacks(pb_the_plan.levels[0].features & ~pb_cpu_features()));
    const size_t bytes = sizeof(pb_model) + (size_t)pb_the_plan.stage_count * sizeof(_Atomic int32_t);
    pb_model *model = pb_pages(bytes, true);
    if (!model)
        return pb_fail(NULL, POCKETBERT_ERROR_MEMORY, "open: out of memory");
    model->bytes = bytes;
    model->context.kernels = level->kernels;
    model->cancel = options->cancel;
    model->log = options->log;
    model->user = options->user;
    const int32_t status = prepare(model, options);
    if (status == POCKETBERT_OK)
        *created = model;
    else
        destroy(model, false);
    return status;
}

PB_PUBLIC int32_t PB(open)(const pocketbert_options *options, pocketbert_model **result)
{
    if (!result)
        return pb_fail(NULL, POCKETBERT_ERROR_ARGUMENT, "open: `model` is NULL: pass the address of a pointer to fill");
    *result = NULL;
    pocketbert_options chosen;
    if (!pb_read_struct(options, OPTIONS_SIZE_1, &chosen, sizeof chosen))
        return pb_fail(
            NULL, POCKETBERT_ERROR_ARGUMENT,
            "open: options->size is not sizeof(pocketbert_options), or an option is set that this library lacks");
    if (chosen.threads < 0 || chosen.threads > MAX_THREADS)
        return pb_fail(NULL, POCKETBERT_ERROR_ARGUMENT, "open: options->threads must be 0 (choose) to 64");
    if (chosen.profile < 0 || chosen.profile > 1)
        return pb_fail(NULL, POCKETBERT_ERROR_ARGUMENT, "open: options->profile must be 0 or 1");
    if (!choose_cores(&chosen))
        return pb_fail(NULL, POCKETBERT_ERROR_ARGUMENT,
                       "open: options->cores names a core that this machine does not have");
    pb_model *model;
    int32_t status = create(&chosen, &model);
    if (status == POCKETBERT_OK && !(*result = pb_handle_create(model))) {
        status = pb_fail(NULL, POCKETBERT_ERROR_MEMORY, "open: too many models are open: close one");
        destroy(model, false);
    }
    if (status != POCKETBERT_OK && chosen.log)
        chosen.log(chosen.user, PB(last_error)(NULL));
    return status;
}

pb_model **pb_lanes(pb_model *model)
{
    if (!model->lanes)
        model->lanes = pb_pages((size_t)model->threads * sizeof *model->lanes, true);
    const pocketbert_options options = {.threads = 1, .cancel = model->cancel};
    for (int32_t i = 0; i < model->threads; i++)
        if (!model->lanes || (!model->lanes[i] && create(&options, &model->lanes[i]) != POCKETBERT_OK)) {
            pb_fail(model, POCKETBERT_ERROR_MEMORY, "out of memory for texts side by side: open it with fewer threads");
            return NULL;
        }
    return model->lanes;
}

PB_PUBLIC void PB(close)(pocketbert_model *handle)
{
    bool inherited;
    pb_model *model = pb_handle_close(handle, &inherited);
    if (model)
        destroy(model, inherited);
}
