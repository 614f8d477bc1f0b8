/* The public functions but for those that take text: check what the caller gives, then run the plan's stages. */
#include "model.h"

enum {
    MAX_THREADS = 64,
    BLOCKS_OF_UNEQUAL_CORES = 3, /* a thread */
    ROWS_BETWEEN = 16,
    OPTIONS_SIZE_1 = 16, /* of the first version, which ends before `cores` */
};

static const char *_Atomic open_error = "no error";
static const char not_open[] = "the model is NULL, closed or of another library: open it first";
static const char inherited_model[] =
    "the model was opened before fork(), and its threads are the parent's: open another";

int32_t pb_fail(pb_model *model, int32_t status, const char *message)
{
    if (model)
        model->error = message;
    else
        atomic_store(&open_error, message);
    if (model && model->log)
        model->log(model->user, message);
    return status;
}

static size_t align(size_t size)
{
    return (size + PB_ALIGNMENT - 1) & ~(size_t)(PB_ALIGNMENT - 1);
}

bool pb_read_struct(const void *given, size_t least, void *read, size_t size)
{
    enum { LARGEST_SIZE = 256 }; /* of a later version's structs: what is more than this is no size */
    memset(read, 0, size);
    if (!given)
        return true;
    const size_t given_size = *(const size_t *)given;
    if (given_size < least || given_size > LARGEST_SIZE || given_size % sizeof(size_t) != 0)
        return false;
    for (size_t i = sizeof(size_t); i < given_size; i++) {
        const char byte = ((const char *)given)[i];
        if (i < size)
            ((char *)read)[i] = byte;
        else if (byte)
            return false;
    }
    return true;
}

/* The highest level that this CPU has all of, or NULL. */
static const pb_level *choose_level(void)
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

/* Rows are handed out in blocks, one a thread where all cores are equal: every block reads all weights. Where they are
 * not, a fast core takes more of smaller ones, so that all finish together. Blocks are whole tiles of four rows. */
static int32_t block_rows(const pb_model *model, int32_t tokens)
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
    model->context.block_rows = block_rows(model, plan->tokens);
    model->context.workspace_offset = align(plan->scratch_row_bytes * (size_t)model->context.block_rows + PB_SLACK);
    model->thread_bytes = model->context.workspace_offset + align(plan->workspace_bytes);
    const size_t text_offset = align(plan->arena_bytes) + model->thread_bytes * (size_t)model->threads;
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
    const pb_level *level = choose_level();
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
        chosen.log(chosen.user, atomic_load(&open_error));
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

static uintptr_t element_bytes(int32_t type)
{
    return type == POCKETBERT_INT64 ? 8 : type == POCKETBERT_BOOL ? 1 : 4;
}

int64_t pb_dimension(const pocketbert_info *info, int32_t axis, int32_t tokens, int32_t sequences)
{
    return axis == info->token_axis ? tokens : axis == 0 && pb_the_plan.batch > 1 ? sequences : info->shape[axis];
}

static int32_t check_tensor(pb_model *model, const pocketbert_info *want, const pocketbert_tensor *got)
{
    if (!got->data)
        return pb_fail(model, POCKETBERT_ERROR_ARGUMENT, "run: a tensor's data is NULL");
    if ((uintptr_t)got->data & (element_bytes(want->type) - 1))
        return pb_fail(model, POCKETBERT_ERROR_ARGUMENT, "run: a tensor's data is not aligned to its type");
    if (got->type != want->type)
        return pb_fail(model, POCKETBERT_ERROR_SHAPE,
                       "run: a tensor has another type than the model's description says");
    if (got->rank != want->rank)
        return pb_fail(model, POCKETBERT_ERROR_SHAPE,
                       "run: a tensor has another rank than the model's description says");
    for (int32_t i = 0; i < want->rank; i++)
        if (got->shape[i] != pb_dimension(want, i, model->context.tokens, model->sequences))
            return pb_fail(model, POCKETBERT_ERROR_SHAPE,
                           "run: a tensor has another shape than the model's description says");
    return POCKETBERT_OK;
}

/* Integer inputs that index a table must lie inside it. */
static int32_t check_range(pb_model *model, const pocketbert_info *want, const pocketbert_tensor *got)
{
    if (want->low == want->high)
        return POCKETBERT_OK;
    int64_t count = 1;
    for (int32_t i = 0; i < want->rank; i++)
        count *= got->shape[i];
    for (int64_t i = 0; i < count; i++) {
        const int64_t id =
            want->type == POCKETBERT_INT64 ? ((const int64_t *)got->data)[i] : ((const int32_t *)got->data)[i];
        if (id < want->low || id >= want->high)
            return pb_fail(model, POCKETBERT_ERROR_RANGE,
                           "run: an id lies outside its table (the description gives its range)");
    }
    return POCKETBERT_OK;
}

/* Of a tensor that has been checked. */
static uintptr_t end_of(const pocketbert_tensor *tensor)
{
    uintptr_t bytes = element_bytes(tensor->type);
    for (int32_t i = 0; i < tensor->rank; i++)
        bytes *= (uintptr_t)tensor->shape[i];
    return (uintptr_t)tensor->data + bytes;
}

/* Stages read inputs and write outputs in an order that is the plan's own affair, and several at once. */
static int32_t check_apart(pb_model *model, const pocketbert_tensor *output, const pocketbert_tensor *others,
                           int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        if ((uintptr_t)output->data < end_of(&others[i]) && (uintptr_t)others[i].data < end_of(output))
            return pb_fail(model, POCKETBERT_ERROR_ARGUMENT,
                           "run: an output shares memory with another tensor: give it its own");
    return POCKETBERT_OK;
}

/* Length and number of the sequences are what the first input says; `check_tensor` holds everything to it. */
static void set_tokens(pb_model *model, const pocketbert_tensor *inputs)
{
    const pb_plan *plan = &pb_the_plan;
    const int32_t axis = plan->inputs[0].token_axis;
    int64_t tokens = plan->tokens;
    if (axis >= 0 && inputs[0].rank == plan->inputs[0].rank && inputs[0].shape[axis] >= 1 &&
        inputs[0].shape[axis] < tokens)
        tokens = inputs[0].shape[axis];
    int64_t sequences = plan->batch;
    if (plan->batch > 1 && inputs[0].rank > 0 && inputs[0].shape[0] >= 1 && inputs[0].shape[0] < sequences)
        sequences = inputs[0].shape[0];
    model->sequences = (int32_t)sequences;
    model->context.tokens = (int32_t)tokens;
    model->whole = (pb_sequence){0, model->context.tokens};
    model->context.sequences = model->packed ? model->packed : &model->whole;
    model->context.sequence_count = model->packed ? model->packed_count : 1;
    model->context.block_rows = block_rows(model, model->context.tokens);
}

static int32_t check(pb_model *model, const pocketbert_tensor *inputs, int32_t input_count,
                     const pocketbert_tensor *outputs, int32_t output_count)
{
    const pb_plan *plan = &pb_the_plan;
    if (!inputs || !outputs)
        return pb_fail(model, POCKETBERT_ERROR_ARGUMENT, "run: `inputs` or `outputs` is NULL");
    if (input_count != plan->input_count || output_count != plan->output_count)
        return pb_fail(model, POCKETBERT_ERROR_ARGUMENT, "run: the number of inputs or outputs is not the model's");
    set_tokens(model, inputs);
    for (int32_t i = 0; i < input_count; i++) {
        int32_t status = check_tensor(model, &plan->inputs[i], &inputs[i]);
        if (status == POCKETBERT_OK)
            status = check_range(model, &plan->inputs[i], &inputs[i]);
        if (status != POCKETBERT_OK)
            return status;
    }
    for (int32_t i = 0; i < output_count; i++) {
        int32_t status = check_tensor(model, &plan->outputs[i], &outputs[i]);
        if (status == POCKETBERT_OK)
            status = check_apart(model, &outputs[i], inputs, input_count);
        if (status == POCKETBERT_OK)
            status = check_apart(model, &outputs[i], outputs, i);
        if (status != POCKETBERT_OK)
            return status;
    }
    return POCKETBERT_OK;
}

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
    char *scratch = model->memory + align(plan->arena_bytes) + model->thread_bytes * (size_t)thread;
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
        const uintptr_t begin = (uintptr_t)tensors[i].data, bytes = end_of(&tensors[i]) - begin;
        one[i].data = (char *)tensors[i].data + bytes / (uintptr_t)model->sequences * (uintptr_t)sequence;
    }
}

/* A batch's sequences follow each other: each has all threads, weights stay in the caches, and none is padded. */
int32_t pb_run_model(pb_model *model, const pocketbert_tensor *inputs, int32_t input_count,
                     const pocketbert_tensor *outputs, int32_t output_count)
{
    static const char cancelled[] = "the run was cancelled: options->cancel is set";
    int32_t status = check(model, inputs, input_count, outputs, output_count);
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

/* Until end_use the model stays open. */
static int32_t begin_use(const pocketbert_model *handle, pb_slot **slot)
{
    const int32_t status = pb_handle_enter(handle, slot);
    return status == POCKETBERT_OK
               ? status
               : pb_fail(NULL, status, status == POCKETBERT_ERROR_FORK ? inherited_model : not_open);
}

/* Until pb_end_run the caller has the model to itself. */
int32_t pb_begin_run(const pocketbert_model *handle, pb_slot **slot)
{
    const int32_t status = begin_use(handle, slot);
    if (status != POCKETBERT_OK)
        return status;
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

PB_PUBLIC void PB(close)(pocketbert_model *handle)
{
    bool inherited;
    pb_model *model = pb_handle_close(handle, &inherited);
    if (model)
        destroy(model, inherited);
}

PB_PUBLIC const char *PB(last_error)(const pocketbert_model *handle)
{
    if (!handle)
        return atomic_load(&open_error);
    pb_slot *slot;
    const int32_t status = pb_handle_enter(handle, &slot);
    if (status != POCKETBERT_OK)
        return status == POCKETBERT_ERROR_FORK ? inherited_model : not_open;
    const char *error = pb_handle_model(slot)->error;
    pb_handle_leave(slot);
    return error;
}

PB_PUBLIC void PB(describe)(pocketbert_description *description)
{
    if (!description)
        return;
    const pb_level *level = choose_level();
    const pocketbert_description known = {
        .size = sizeof known,
        .tokens = pb_the_plan.tokens,
        .batch = pb_the_plan.batch,
        .input_count = pb_the_plan.input_count,
        .inputs = pb_the_plan.inputs,
        .output_count = pb_the_plan.output_count,
        .outputs = pb_the_plan.outputs,
        .arena_bytes = pb_the_plan.arena_bytes,
        .weight_bytes = pb_the_plan.weight_bytes,
        .cpu = level ? level->cpu : pb_the_plan.levels[0].cpu,
        .pieces = PB_PIECES,
        .text_tokens = PB_PIECES ? pb_most_text_tokens() : 0,
        .task = PB_TASK,
        .labels = PB_LABELS,
        .vector = PB_TASK == POCKETBERT_EMBED ? pb_vector_size() : 0,
    };
    const size_t size = description->size < sizeof known ? description->size : sizeof known;
    for (size_t i = sizeof known.size; i < size; i++)
        ((char *)description)[i] = ((const char *)&known)[i];
}

static int32_t profile(pb_model *model, const pocketbert_record **records, int32_t *count)
{
    if (!records || !count)
        return pb_fail(model, POCKETBERT_ERROR_ARGUMENT, "profile: `records` or `count` is NULL");
    if (!model->records)
        return pb_fail(model, POCKETBERT_ERROR_ARGUMENT, "profile: the model was opened without options->profile");
    memcpy(model->snapshot, model->records, (size_t)model->record_count * sizeof *model->records);
    *records = model->snapshot;
    *count = model->record_count;
    return POCKETBERT_OK;
}

PB_PUBLIC int32_t PB(profile)(pocketbert_model *handle, const pocketbert_record **records, int32_t *count)
{
    pb_slot *slot;
    const int32_t status = pb_begin_run(handle, &slot);
    return status == POCKETBERT_OK ? pb_end_run(slot, profile(pb_handle_model(slot), records, count)) : status;
}

PB_PUBLIC int32_t PB(abi_version)(void)
{
    return POCKETBERT_ABI;
}

PB_PUBLIC const pocketbert_functions *PB(functions)(void)
{
    static const pocketbert_functions functions = {
        .size = sizeof functions,
        .abi_version = POCKETBERT_ABI,
        .open = PB(open),
        .run = PB(run),
        .close = PB(close),
        .last_error = PB(last_error),
        .describe = PB(describe),
        .profile = PB(profile),
        .tokenize = PB(tokenize),
        .run_text = PB(run_text),
        .token = PB(token),
        .encode = PB(encode),
        .label = PB(label),
        .classify = PB(classify),
        .embed = PB(embed),
        .entities = PB(entities),
        .fill = PB(fill),
        .answer = PB(answer),
        .classify_all = PB(classify_all),
        .embed_all = PB(embed_all),
        .convert = PB(convert),
        .cosine = PB(cosine),
    };
    return &functions;
}
