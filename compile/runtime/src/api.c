/* The public functions: check what the caller gives, then run the plan's stages. */
#include "runtime.h"

enum {
    MAX_THREADS = 64,
    BLOCKS_OF_UNEQUAL_CORES = 3, /* a thread */
    OPTIONS_SIZE_1 = 16,         /* of the first version, which ends before `cores` */
    TOKENS_SIZE_1 = 72,          /* of pocketbert_tokens */
    MAX_TEXT = 1 << 28,          /* bytes */
    LARGEST_SIZE = 256,          /* of a later version's structs: what is more than this is no size */
};

struct pb_model {
    _Atomic uint32_t busy;
    const char *_Atomic error; /* a caller that is refused as busy sets it beside one that runs */
    pb_pool *pool;
    char *memory; /* arena, then each thread's scratch, then the ids, mask and segments of a text */
    size_t memory_bytes;
    size_t thread_bytes;
    int64_t *text;
    int32_t threads;
    int32_t blocks;         /* of rows, in a run */
    int32_t sequences;      /* of this run */
    pocketbert_tensor *one; /* the in- and outputs of one of them */
    pb_context context;
    pocketbert_record *records;  /* NULL without options.profile: the run, then each call of each block */
    pocketbert_record *snapshot; /* of them, which the caller of `profile` reads: no run writes to it */
    size_t records_bytes;        /* of each */
    int32_t record_count;
    size_t bytes;
    _Atomic int32_t next_block[]; /* one a stage */
};

static const char *_Atomic open_error = "no error";
static const char not_open[] = "the model is NULL, closed or of another library: open it first";
static const char inherited_model[] =
    "the model was opened before fork(), and its threads are the parent's: open another";

static int32_t fail(pb_model *model, int32_t status, const char *message)
{
    if (model)
        model->error = message;
    else
        atomic_store(&open_error, message);
    return status;
}

static size_t align(size_t size)
{
    return (size + PB_ALIGNMENT - 1) & ~(size_t)(PB_ALIGNMENT - 1);
}

/* What an older caller does not know is 0; what we do not know of a newer one's must be 0. */
static bool read_options(const pocketbert_options *given, pocketbert_options *options)
{
    *options = (pocketbert_options){.size = sizeof *options};
    if (!given)
        return true;
    if (given->size < OPTIONS_SIZE_1 || given->size > LARGEST_SIZE || given->size % 8 != 0)
        return false;
    for (size_t i = 0; i < given->size; i++) {
        const char byte = ((const char *)given)[i];
        if (i < sizeof *options)
            ((char *)options)[i] = byte;
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
        return fail(NULL, POCKETBERT_ERROR_MEMORY, "open: out of memory for the tensors");
    model->text = (int64_t *)(void *)(model->memory + text_offset);
    model->one = (pocketbert_tensor *)(void *)(model->memory + one_offset);
    model->context.inputs = model->one;
    model->context.outputs = model->one + plan->input_count;
    if (options->profile) {
        model->records_bytes = (1 + (size_t)plan->call_count * (size_t)model->blocks) * sizeof *model->records;
        model->records = pb_pages(2 * model->records_bytes, true);
        if (!model->records)
            return fail(NULL, POCKETBERT_ERROR_MEMORY, "open: out of memory for the profile");
        model->snapshot = model->records + model->records_bytes / sizeof *model->records;
    }
    model->pool = pb_pool_create(model->threads);
    if (!model->pool)
        return fail(NULL, POCKETBERT_ERROR_THREAD, "open: threads could not be created");
    struct affinity affinity = {.cores = options->cores ? options->cores : cores.big};
    if (affinity.cores)
        pb_pool_run(model->pool, set_affinity, &affinity);
    if (options->cores && affinity.refused)
        return fail(NULL, POCKETBERT_ERROR_ARGUMENT, "open: options->cores names no core that this process may use");
    return POCKETBERT_OK;
}

PB_PUBLIC int32_t PB(open)(const pocketbert_options *options, pocketbert_model **result)
{
    if (!result)
        return fail(NULL, POCKETBERT_ERROR_ARGUMENT, "open: `model` is NULL: pass the address of a pointer to fill");
    *result = NULL;
    pocketbert_options chosen;
    if (!read_options(options, &chosen))
        return fail(
            NULL, POCKETBERT_ERROR_ARGUMENT,
            "open: options->size is not sizeof(pocketbert_options), or an option is set that this library lacks");
    if (chosen.threads < 0 || chosen.threads > MAX_THREADS)
        return fail(NULL, POCKETBERT_ERROR_ARGUMENT, "open: options->threads must be 0 (choose) to 64");
    if (chosen.profile < 0 || chosen.profile > 1)
        return fail(NULL, POCKETBERT_ERROR_ARGUMENT, "open: options->profile must be 0 or 1");
    if (!choose_cores(&chosen))
        return fail(NULL, POCKETBERT_ERROR_ARGUMENT,
                    "open: options->cores names a core that this machine does not have");
    const pb_level *level = choose_level();
    if (!level)
        return fail(NULL, POCKETBERT_ERROR_CPU, pb_cpu_lacks(pb_the_plan.levels[0].features & ~pb_cpu_features()));

    const size_t bytes = sizeof(pb_model) + (size_t)pb_the_plan.stage_count * sizeof(_Atomic int32_t);
    pb_model *model = pb_pages(bytes, true);
    if (!model)
        return fail(NULL, POCKETBERT_ERROR_MEMORY, "open: out of memory");
    model->bytes = bytes;
    model->context.kernels = level->kernels;
    int32_t status = prepare(model, &chosen);
    if (status == POCKETBERT_OK && !(*result = pb_handle_create(model)))
        status = fail(NULL, POCKETBERT_ERROR_MEMORY, "open: too many models are open: close one");
    if (status != POCKETBERT_OK)
        destroy(model, false);
    return status;
}

static uintptr_t element_bytes(int32_t type)
{
    return type == POCKETBERT_INT64 ? 8 : type == POCKETBERT_BOOL ? 1 : 4;
}

/* Of a tensor of `sequences` with `tokens` each. */
static int64_t dimension(const pocketbert_info *info, int32_t axis, int32_t tokens, int32_t sequences)
{
    return axis == info->token_axis ? tokens : axis == 0 && pb_the_plan.batch > 1 ? sequences : info->shape[axis];
}

static int32_t check_tensor(pb_model *model, const pocketbert_info *want, const pocketbert_tensor *got)
{
    if (!got->data)
        return fail(model, POCKETBERT_ERROR_ARGUMENT, "run: a tensor's data is NULL");
    if ((uintptr_t)got->data & (element_bytes(want->type) - 1))
        return fail(model, POCKETBERT_ERROR_ARGUMENT, "run: a tensor's data is not aligned to its type");
    if (got->type != want->type)
        return fail(model, POCKETBERT_ERROR_SHAPE, "run: a tensor has another type than the model's description says");
    if (got->rank != want->rank)
        return fail(model, POCKETBERT_ERROR_SHAPE, "run: a tensor has another rank than the model's description says");
    for (int32_t i = 0; i < want->rank; i++)
        if (got->shape[i] != dimension(want, i, model->context.tokens, model->sequences))
            return fail(model, POCKETBERT_ERROR_SHAPE,
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
            return fail(model, POCKETBERT_ERROR_RANGE,
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
            return fail(model, POCKETBERT_ERROR_ARGUMENT,
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
    model->context.block_rows = block_rows(model, model->context.tokens);
}

static int32_t check(pb_model *model, const pocketbert_tensor *inputs, int32_t input_count,
                     const pocketbert_tensor *outputs, int32_t output_count)
{
    const pb_plan *plan = &pb_the_plan;
    if (!inputs || !outputs)
        return fail(model, POCKETBERT_ERROR_ARGUMENT, "run: `inputs` or `outputs` is NULL");
    if (input_count != plan->input_count || output_count != plan->output_count)
        return fail(model, POCKETBERT_ERROR_ARGUMENT, "run: the number of inputs or outputs is not the model's");
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

static void run_stages(void *argument, int32_t thread)
{
    pb_model *model = argument;
    const pb_plan *plan = &pb_the_plan;
    const pb_context *context = &model->context;
    char *scratch = model->memory + align(plan->arena_bytes) + model->thread_bytes * (size_t)thread;
    const pb_stage *stages = model->records ? plan->profiled_stages : plan->stages;
    pb_log log = {.thread = thread};
    for (int32_t s = 0; s < plan->stage_count; s++) {
        const pb_stage *stage = &stages[s];
        if (stage->serial && thread == 0) {
            if (model->records)
                log_block(model, &log, 0);
            stage->serial(context, scratch, 0, 0, &log);
        }
        while (stage->rows) {
            const int32_t block = atomic_fetch_add_explicit(&model->next_block[s], 1, memory_order_relaxed);
            const int32_t row = block * context->block_rows;
            if (row >= context->tokens)
                break;
            const int32_t left = context->tokens - row;
            if (model->records)
                log_block(model, &log, block);
            stage->rows(context, scratch, row, left < context->block_rows ? left : context->block_rows, &log);
        }
        if (s + 1 < plan->stage_count)
            pb_pool_barrier(model->pool);
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
static int32_t run(pb_model *model, const pocketbert_tensor *inputs, int32_t input_count,
                   const pocketbert_tensor *outputs, int32_t output_count)
{
    const int32_t status = check(model, inputs, input_count, outputs, output_count);
    for (int32_t sequence = 0; status == POCKETBERT_OK && sequence < model->sequences; sequence++) {
        choose_sequence(model, inputs, input_count, sequence, model->one);
        choose_sequence(model, outputs, output_count, sequence, model->one + input_count);
        for (int32_t s = 0; s < pb_the_plan.stage_count; s++)
            atomic_store_explicit(&model->next_block[s], 0, memory_order_relaxed);
        if (model->records)
            run_profiled(model);
        else
            pb_pool_run(model->pool, run_stages, model);
    }
    return status;
}

/* Until end_use the model stays open. */
static int32_t begin_use(const pocketbert_model *handle, pb_slot **slot)
{
    const int32_t status = pb_handle_enter(handle, slot);
    return status == POCKETBERT_OK ? status
                                   : fail(NULL, status, status == POCKETBERT_ERROR_FORK ? inherited_model : not_open);
}

/* Until end_run the caller has the model to itself. */
static int32_t begin_run(const pocketbert_model *handle, pb_slot **slot)
{
    const int32_t status = begin_use(handle, slot);
    if (status != POCKETBERT_OK)
        return status;
    pb_model *model = pb_handle_model(*slot);
    if (!atomic_exchange(&model->busy, 1))
        return POCKETBERT_OK;
    fail(model, POCKETBERT_ERROR_BUSY, "another thread is running this model: wait for it, or open another");
    pb_handle_leave(*slot);
    return POCKETBERT_ERROR_BUSY;
}

static int32_t end_run(pb_slot *slot, int32_t status)
{
    atomic_store(&pb_handle_model(slot)->busy, 0);
    pb_handle_leave(slot);
    return status;
}

PB_PUBLIC int32_t PB(run)(pocketbert_model *handle, const pocketbert_tensor *inputs, int32_t input_count,
                          const pocketbert_tensor *outputs, int32_t output_count)
{
    pb_slot *slot;
    const int32_t status = begin_run(handle, &slot);
    if (status != POCKETBERT_OK)
        return status;
    return end_run(slot, run(pb_handle_model(slot), inputs, input_count, outputs, output_count));
}

static int32_t check_text(pb_model *model, const char *text, size_t text_bytes, const char *pair, size_t pair_bytes,
                          int32_t max_tokens)
{
    if (!PB_PIECES)
        return fail(model, POCKETBERT_ERROR_VOCABULARY,
                    "the library has no tokenizer: build it from a folder that has one, or with --vocab vocab.txt");
    if ((!text && text_bytes) || (!pair && pair_bytes))
        return fail(model, POCKETBERT_ERROR_ARGUMENT, "text: `text` or `pair` is NULL but has bytes");
    if (text_bytes > MAX_TEXT || pair_bytes > MAX_TEXT)
        return fail(model, POCKETBERT_ERROR_ARGUMENT, "text: longer than 256 MiB");
    if (max_tokens < pb_template_size(pair) || max_tokens < 0)
        return fail(model, POCKETBERT_ERROR_ARGUMENT, "text: there is no room for the special pieces around the texts");
    return POCKETBERT_OK;
}

/* Of texts that have been checked. */
static int32_t encode(pb_model *model, const char *text, size_t text_bytes, const char *pair, size_t pair_bytes,
                      pocketbert_tokens *tokens, int32_t *count)
{
    const int32_t status = pb_text_tokens(text, text_bytes, pair, pair_bytes, tokens);
    if (status == POCKETBERT_OK)
        *count = tokens->count;
    return status == POCKETBERT_OK ? status
           : status == POCKETBERT_ERROR_SHAPE
               ? fail(model, status, "text: the first text leaves no room for a window of the second: shorten it")
               : fail(model, status, "text: out of memory for its tokens");
}

PB_PUBLIC int32_t PB(tokenize)(const char *text, size_t text_bytes, const char *pair, size_t pair_bytes,
                               int32_t max_tokens, int64_t *ids, int64_t *segments, int32_t *count)
{
    const int32_t status = check_text(NULL, text, text_bytes, pair, pair_bytes, max_tokens);
    if (status != POCKETBERT_OK)
        return status;
    if (!ids || !segments || !count)
        return fail(NULL, POCKETBERT_ERROR_ARGUMENT, "tokenize: `ids`, `segments` or `count` is NULL");
    pocketbert_tokens tokens = {.size = sizeof tokens, .max_tokens = max_tokens, .ids = ids, .segments = segments};
    return encode(NULL, text, text_bytes, pair, pair_bytes, &tokens, count);
}

PB_PUBLIC int32_t PB(encode)(const char *text, size_t text_bytes, const char *pair, size_t pair_bytes,
                             pocketbert_tokens *tokens)
{
    if (!tokens || tokens->size < TOKENS_SIZE_1 || tokens->size > LARGEST_SIZE || tokens->size % 8 != 0)
        return fail(NULL, POCKETBERT_ERROR_ARGUMENT,
                    "encode: `tokens` is NULL, or tokens->size is not sizeof(pocketbert_tokens)");
    const int32_t status = check_text(NULL, text, text_bytes, pair, pair_bytes, tokens->max_tokens);
    if (status != POCKETBERT_OK)
        return status;
    if (!tokens->ids || tokens->windows < 0 || tokens->windows > 1 || tokens->skip < 0)
        return fail(NULL, POCKETBERT_ERROR_ARGUMENT,
                    "encode: tokens->ids is NULL, tokens->windows not 0 or 1, or tokens->skip negative");
    int32_t count;
    return encode(NULL, text, text_bytes, pair, pair_bytes, tokens, &count);
}

PB_PUBLIC const char *PB(token)(int32_t id)
{
    return pb_piece(id);
}

/* Of the longest text: fewer than the model takes where it was made for fewer. */
static int32_t text_tokens(void)
{
    return PB_MAX_TOKENS > 0 && PB_MAX_TOKENS < pb_the_plan.tokens ? PB_MAX_TOKENS : pb_the_plan.tokens;
}

/* int64 -> what the input's type is, in place. */
static void narrow(int64_t *values, int32_t count, int32_t type)
{
    for (int32_t i = 0; type == POCKETBERT_INT32 && i < count; i++) {
        const int32_t value = (int32_t)values[i];
        memcpy((char *)values + (size_t)i * sizeof value, &value, sizeof value);
    }
}

/* Where the ids and segments of a text go. */
static pocketbert_tokens own_tokens(pb_model *model)
{
    pocketbert_tokens tokens = {.size = sizeof tokens, .max_tokens = text_tokens()};
    tokens.ids = model->text + PB_TEXT_IDS * (size_t)pb_the_plan.tokens;
    tokens.segments = model->text + PB_TEXT_SEGMENTS * (size_t)pb_the_plan.tokens;
    return tokens;
}

/* On `found` tokens that lie there. */
static int32_t run_tokens(pb_model *model, int32_t found, pocketbert_tensor *outputs, int32_t output_count)
{
    static const uint8_t takes[] = {PB_TEXT_INPUTS};
    enum { INPUTS = sizeof takes };
    const pb_plan *plan = &pb_the_plan;
    int64_t *values[] = {model->text, model->text + plan->tokens, model->text + 2 * (size_t)plan->tokens};
    const int32_t length = plan->inputs[0].token_axis < 0 ? plan->tokens : found;
    for (int32_t i = 0; i < length; i++) {
        values[PB_TEXT_MASK][i] = i < found;
        if (i >= found) {
            values[PB_TEXT_IDS][i] = PB_PAD < 0 ? 0 : PB_PAD;
            values[PB_TEXT_SEGMENTS][i] = 0;
        }
    }
    pocketbert_tensor inputs[INPUTS];
    for (int32_t i = 0; i < INPUTS; i++) {
        narrow(values[takes[i]], length, plan->inputs[i].type);
        inputs[i] = (pocketbert_tensor){values[takes[i]], plan->inputs[i].type, 2, {1, length}};
    }
    for (int32_t i = 0; i < output_count; i++) {
        const pocketbert_info *info = &plan->outputs[i];
        outputs[i] = (pocketbert_tensor){outputs[i].data, info->type, info->rank, {0}};
        for (int32_t axis = 0; axis < info->rank; axis++)
            outputs[i].shape[axis] = dimension(info, axis, length, 1);
    }
    return run(model, inputs, INPUTS, outputs, output_count);
}

static int32_t run_text(pb_model *model, const char *text, size_t text_bytes, const char *pair, size_t pair_bytes,
                        pocketbert_tensor *outputs, int32_t output_count, int32_t *tokens)
{
    int32_t found, status = check_text(model, text, text_bytes, pair, pair_bytes, text_tokens());
    if (status != POCKETBERT_OK)
        return status;
    if (!outputs || output_count != pb_the_plan.output_count)
        return fail(model, POCKETBERT_ERROR_ARGUMENT, "run_text: `outputs` is NULL or not as many as the model's");
    pocketbert_tokens given = own_tokens(model);
    status = encode(model, text, text_bytes, pair, pair_bytes, &given, &found);
    if (status != POCKETBERT_OK)
        return status;
    if (tokens)
        *tokens = found;
    return run_tokens(model, found, outputs, output_count);
}

PB_PUBLIC int32_t PB(run_text)(pocketbert_model *handle, const char *text, size_t text_bytes, const char *pair,
                               size_t pair_bytes, pocketbert_tensor *outputs, int32_t output_count, int32_t *tokens)
{
    pb_slot *slot;
    const int32_t status = begin_run(handle, &slot);
    if (status != POCKETBERT_OK)
        return status;
    return end_run(slot,
                   run_text(pb_handle_model(slot), text, text_bytes, pair, pair_bytes, outputs, output_count, tokens));
}

int32_t pb_begin_task(const pocketbert_model *handle, pb_slot **slot)
{
    return begin_run(handle, slot);
}

int32_t pb_task_text(pb_slot *slot, const char *text, size_t text_bytes, const char *pair, size_t pair_bytes,
                     pb_task_run *task)
{
    pb_model *model = pb_handle_model(slot);
    const pb_plan *plan = &pb_the_plan;
    int32_t found, status = check_text(model, text, text_bytes, pair, pair_bytes, text_tokens());
    if (status != POCKETBERT_OK)
        return status;
    if (plan->output_count > PB_MOST_OUTPUTS)
        return fail(model, POCKETBERT_ERROR_TASK, "the model has more outputs than a task reads");
    const size_t tokens = align((size_t)plan->tokens * sizeof(int64_t));
    task->bytes = 4 * tokens;
    for (int32_t i = 0; i < plan->output_count; i++)
        task->bytes += align(plan->outputs[i].bytes) + PB_ALIGNMENT;
    char *at = pb_pages(task->bytes, false);
    if (!at)
        return fail(model, POCKETBERT_ERROR_MEMORY, "out of memory for the model's outputs");
    task->memory = at;
    task->tokens = own_tokens(model);
    task->tokens.begins = (int64_t *)(void *)at;
    task->tokens.ends = (int64_t *)(void *)(at + tokens);
    task->tokens.texts = (int8_t *)at + 2 * tokens;
    status = encode(model, text, text_bytes, pair, pair_bytes, &task->tokens, &found);
    if (status != POCKETBERT_OK)
        return status;
    memcpy(at + 3 * tokens, task->tokens.ids, (size_t)found * sizeof(int64_t)); /* a run may narrow the model's own */
    task->tokens.ids = (int64_t *)(void *)(at + 3 * tokens);
    at += 4 * tokens;
    for (int32_t i = 0; i < plan->output_count; i++) {
        task->outputs[i].data = at;
        at += align(plan->outputs[i].bytes) + PB_ALIGNMENT;
    }
    return run_tokens(model, found, task->outputs, plan->output_count);
}

int32_t pb_end_task(pb_slot *slot, pb_task_run *task, int32_t status)
{
    if (task->memory)
        pb_free_pages(task->memory, task->bytes);
    return end_run(slot, status);
}

int32_t pb_refuse(pb_slot *slot, int32_t status, const char *message)
{
    return fail(pb_handle_model(slot), status, message);
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
        .text_tokens = PB_PIECES ? text_tokens() : 0,
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
        return fail(model, POCKETBERT_ERROR_ARGUMENT, "profile: `records` or `count` is NULL");
    if (!model->records)
        return fail(model, POCKETBERT_ERROR_ARGUMENT, "profile: the model was opened without options->profile");
    memcpy(model->snapshot, model->records, (size_t)model->record_count * sizeof *model->records);
    *records = model->snapshot;
    *count = model->record_count;
    return POCKETBERT_OK;
}

PB_PUBLIC int32_t PB(profile)(pocketbert_model *handle, const pocketbert_record **records, int32_t *count)
{
    pb_slot *slot;
    const int32_t status = begin_run(handle, &slot);
    return status == POCKETBERT_OK ? end_run(slot, profile(pb_handle_model(slot), records, count)) : status;
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
    };
    return &functions;
}
