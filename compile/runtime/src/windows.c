/* A text in one window or several, and the model's outputs for each. */
#include "tasks.h"

enum { ANSWER_TOKENS = 384, LARGEST_STRIDE = 128, ANSWER_LONGEST = 15 };

/* Whether the numbers are those of labels. */
static bool are_labels(const int32_t *numbers, int32_t count)
{
    if (count < 0 || (count && !numbers))
        return false;
    for (int32_t i = 0; i < count; i++)
        if (numbers[i] < 0 || numbers[i] >= PB_LABELS)
            return false;
    return true;
}

static int32_t read_options(pb_model *model, int32_t task, bool complete, const pocketbert_task_options *given,
                            pocketbert_task_options *options)
{
    if (task != PB_TASK)
        return pb_fail(model, POCKETBERT_ERROR_TASK,
                       "the model is for another task, or for none: the description says for which");
    if (pb_the_plan.output_count > PB_MOST_OUTPUTS)
        return pb_fail(model, POCKETBERT_ERROR_TASK, "the model has more outputs than a task reads");
    if (!complete)
        return pb_fail(model, POCKETBERT_ERROR_ARGUMENT,
                       "a text, or a place for what the task gives, is NULL or has no room");
    if (!pb_read_struct(given, sizeof *given, options, sizeof *options))
        return pb_fail(model, POCKETBERT_ERROR_ARGUMENT,
                       "options->size is not sizeof(pocketbert_task_options), or an option is set that this library "
                       "lacks");
    if (options->long_text < POCKETBERT_REFUSE || options->long_text > POCKETBERT_WINDOWS)
        return pb_fail(model, POCKETBERT_ERROR_ARGUMENT, "options->long_text is none of POCKETBERT_REFUSE and so on");
    if (options->no_answer < 0 || options->no_answer > 1 || options->longest < 0)
        return pb_fail(model, POCKETBERT_ERROR_ARGUMENT,
                       "options->no_answer must be 0 or 1, options->longest 0 (choose) or more");
    if (options->threshold != options->threshold)
        return pb_fail(model, POCKETBERT_ERROR_ARGUMENT, "options->threshold is no number");
    if (!are_labels(options->allow, options->allow_count) || !are_labels(options->deny, options->deny_count))
        return pb_fail(model, POCKETBERT_ERROR_ARGUMENT,
                       "options->allow or ->deny is NULL, or holds what is no label's number");
    const int32_t most = pb_most_text_tokens();
    if (options->max_tokens < 0 || options->max_tokens > most)
        return pb_fail(model, POCKETBERT_ERROR_ARGUMENT,
                       "options->max_tokens must be 0 (choose) to `text_tokens` of the description");
    if (!options->max_tokens)
        options->max_tokens = task == POCKETBERT_ANSWER && most > ANSWER_TOKENS ? ANSWER_TOKENS : most;
    if (options->stride < -1 || options->stride >= options->max_tokens)
        return pb_fail(model, POCKETBERT_ERROR_ARGUMENT,
                       "options->stride must be -1 (none), 0 (choose) or less than a window has tokens");
    if (!options->longest)
        options->longest = ANSWER_LONGEST;
    if (task == POCKETBERT_ANSWER)
        options->long_text = POCKETBERT_WINDOWS;
    return POCKETBERT_OK;
}

static size_t align(size_t size)
{
    return (size + PB_ALIGNMENT - 1) & ~(size_t)(PB_ALIGNMENT - 1);
}

/* Of an output: one for each text side by side, unless it has their rows. */
static size_t copies(const pocketbert_info *output)
{
    return pb_the_plan.gap >= 0 && output->token_axis < 0 ? PB_MOST_PACKED : 1;
}

int32_t pb_open_pass(pb_model *model, const pocketbert_task_options *options, pb_pass *pass)
{
    pass->model = model;
    pass->options = *options;
    const pb_plan *plan = &pb_the_plan;
    const size_t row = align((size_t)plan->tokens * sizeof(int64_t));
    const size_t vector = align((size_t)(PB_LABELS > pb_vector_size() ? PB_LABELS : pb_vector_size()) * sizeof(float));
    pass->bytes = 6 * row + vector;
    for (int32_t i = 0; i < plan->output_count; i++)
        pass->bytes += align(plan->outputs[i].bytes * copies(&plan->outputs[i])) + PB_ALIGNMENT;
    char *at = pb_pages(pass->bytes, false);
    if (!at)
        return pb_fail(model, POCKETBERT_ERROR_MEMORY, "out of memory for the model's outputs");
    pass->memory = at;
    pass->tokens.begins = (int64_t *)(void *)at;
    pass->tokens.ends = (int64_t *)(void *)(at + row);
    pass->tokens.texts = (int8_t *)at + 2 * row;
    pass->tokens.words = (int32_t *)(void *)(at + 3 * row);
    pass->tokens.ids = (int64_t *)(void *)(at + 4 * row);
    pass->asked = (bool *)at + 5 * row;
    pass->vector = (float *)(void *)(at + 6 * row);
    at += 6 * row + vector;
    for (int32_t i = 0; i < plan->output_count; i++) {
        pass->outputs[i].data = at;
        at += align(plan->outputs[i].bytes * copies(&plan->outputs[i])) + PB_ALIGNMENT;
    }
    return POCKETBERT_OK;
}

void pb_close_pass(pb_pass *pass)
{
    pb_release(&pass->reading);
    if (pass->memory)
        pb_free_pages(pass->memory, pass->bytes);
    *pass = (pb_pass){.memory = NULL};
}

int32_t pb_begin_task(pocketbert_model *handle, int32_t task, bool complete, const pocketbert_task_options *options,
                      pb_pass *pass)
{
    *pass = (pb_pass){.slot = NULL};
    pocketbert_task_options read;
    pb_slot *slot;
    int32_t status = pb_begin_run(handle, &slot);
    if (status != POCKETBERT_OK)
        return status;
    pass->slot = slot;
    pb_model *model = pb_handle_model(slot);
    status = read_options(model, task, complete, options, &read);
    return status == POCKETBERT_OK ? pb_open_pass(model, &read, pass) : status;
}

int32_t pb_end_task(pb_pass *pass, int32_t status)
{
    pb_slot *slot = pass->slot;
    pb_close_pass(pass);
    return slot ? pb_end_run(slot, status) : status;
}

int32_t pb_begin_text(pb_pass *pass, const char *text, size_t text_bytes, const char *pair, size_t pair_bytes,
                      int32_t *overflow)
{
    const int32_t most = pass->options.max_tokens;
    int32_t status = pb_check_text(pass->model, text, text_bytes, pair, pair_bytes, most);
    if (status != POCKETBERT_OK)
        return status;
    status = pb_read(text, text_bytes, pair, pair_bytes, &pass->reading);
    if (status != POCKETBERT_OK)
        return pb_fail(pass->model, status, pb_no_memory);
    const size_t count = pass->reading.readers[0].token_count + pass->reading.readers[1].token_count;
    const size_t room = (size_t)(most - pb_template_size(pair));
    const size_t over = count > room ? count - room : 0;
    pass->tokens.count = over ? most : (int32_t)count + pb_template_size(pair);
    if (overflow)
        *overflow = over < INT32_MAX ? (int32_t)over : INT32_MAX;
    if (over && pass->options.long_text == POCKETBERT_REFUSE)
        return pb_fail(pass->model, POCKETBERT_ERROR_LONG,
                       "the text has more tokens than the model takes: shorten it, or let it be truncated or read in "
                       "windows");
    pass->next = 0;
    pass->tokens.windows = over > 0 && pass->options.long_text == POCKETBERT_WINDOWS;
    pass->more = true;
    return POCKETBERT_OK;
}

/* How many tokens further the window after this one begins; 0: that many cannot be shared. */
static int32_t step(pb_pass *pass)
{
    int32_t inside = 0;
    for (int32_t i = 0; i < pass->tokens.count; i++)
        inside += pass->tokens.texts[i] == (pass->reading.text[1] != NULL);
    pass->stride = pass->options.stride < 0 ? 0 : pass->options.stride;
    if (!pass->options.stride) {
        const int32_t half = pass->options.max_tokens / 2, most = half < LARGEST_STRIDE ? half : LARGEST_STRIDE;
        pass->stride = most < inside ? most : inside / 2;
    }
    return pass->stride < inside ? inside - pass->stride : 0;
}

int32_t pb_next_tokens(pb_pass *pass)
{
    pb_model *model = pass->model;
    pocketbert_tokens own = pb_own_tokens(model), *tokens = &pass->tokens;
    own.max_tokens = pass->options.max_tokens;
    own.windows = tokens->windows;
    own.skip = tokens->skip = pass->next;
    own.begins = tokens->begins;
    own.ends = tokens->ends;
    own.texts = tokens->texts;
    own.words = tokens->words;
    if (pb_cut(&pass->reading, &own) != POCKETBERT_OK)
        return pb_fail(model, POCKETBERT_ERROR_SHAPE, pb_no_room);
    memcpy(tokens->ids, own.ids, (size_t)own.count * sizeof *own.ids); /* a run may narrow the model's own */
    tokens->count = own.count;
    tokens->overflow = own.overflow;
    pass->more = tokens->windows && own.overflow > 0;
    if (pass->more) {
        const int32_t further = step(pass);
        if (!further)
            return pb_fail(model, POCKETBERT_ERROR_ARGUMENT,
                           "options->stride is as much as a window has of the text: give a smaller one");
        pass->next += further;
    }
    return POCKETBERT_OK;
}

int32_t pb_run_window(pb_pass *pass)
{
    pass->model->asked = PB_TASK == POCKETBERT_FILL ? pass->asked : NULL;
    const pb_sequence all = {0, pass->tokens.count};
    const int32_t status = pb_run_tokens(pass->model, &all, 1, pass->outputs, pb_the_plan.output_count);
    pass->model->asked = NULL;
    return status;
}

int32_t pb_next_window(pb_pass *pass)
{
    const int32_t status = pb_next_tokens(pass);
    return status == POCKETBERT_OK ? pb_run_window(pass) : status;
}
