/* Many texts in one call: several in one run, side by side, and each run on a thread of its own where there are as many
 * texts as threads. */
#include "tasks.h"

enum {
    MAX_THREADS = 64,
    MOST_ROWS =
        128, /* of texts side by side: enough for the time that it takes to read weights to vanish in the rest */
};

typedef struct {
    pb_model **lanes;
    const pocketbert_text *texts;
    int32_t count;
    const pocketbert_task_options *options;
    pocketbert_label *labels; /* `each` a text; or NULL, and there are vectors */
    float *vectors;
    int32_t each;
    int32_t *overflows;
    int32_t lanes_at_once;
    _Atomic int32_t next;
    struct {
        int32_t text, status; /* of the first of a thread's texts that failed */
    } failed[MAX_THREADS];
} list;

/* Text i has no more labels than `count`. */
static void end_labels(const list *all, int32_t i, int32_t count)
{
    for (int32_t k = count; k < all->each; k++)
        all->labels[(size_t)i * (size_t)all->each + (size_t)k] = (pocketbert_label){-1, 0};
}

static int32_t run_text(const list *all, pb_pass *pass, int32_t i)
{
    int32_t count, *overflow = all->overflows ? &all->overflows[i] : NULL;
    const size_t to = (size_t)i * (size_t)all->each;
    if (!all->labels)
        return pb_embed_text(pass, &all->texts[i], all->vectors + to, overflow);
    const int32_t status = pb_classify_text(pass, &all->texts[i], all->labels + to, all->each, &count, overflow);
    end_labels(all, i, status == POCKETBERT_OK ? count : 0);
    return status;
}

/* Texts side by side: their numbers and rows. */
typedef struct {
    int32_t count, room;
    int32_t texts[PB_MOST_PACKED];
    pb_sequence rows[PB_MOST_PACKED];
} pack;

static int32_t run_pack(const list *all, pb_pass *pass, pack *packed)
{
    const pb_plan *plan = &pb_the_plan;
    const bool by_token = plan->outputs[PB_TASK_OUTPUT].token_axis >= 0;
    const int32_t count = packed->count;
    packed->count = 0;
    if (!count)
        return POCKETBERT_OK;
    const int32_t status = pb_run_tokens(pass->model, packed->rows, count, pass->outputs, plan->output_count);
    for (int32_t k = 0; status == POCKETBERT_OK && k < count; k++) {
        const pb_sequence rows = packed->rows[k];
        float *output = pass->outputs[PB_TASK_OUTPUT].data;
        output += (size_t)(by_token ? rows.first : k) * (size_t)pb_vector_size();
        const int32_t i = packed->texts[k];
        const size_t to = (size_t)i * (size_t)all->each;
        if (all->labels)
            end_labels(all, i, pb_take_labels(all->options, output, all->labels + to, all->each));
        else
            pb_take_vector(output, rows.tokens, all->vectors + to);
    }
    return status;
}

/* Put a text beside those of a pack, which is run first where it has no room; a text of several windows is run alone. */
static int32_t pack_text(const list *all, pb_pass *pass, pack *packed, int32_t i)
{
    const pocketbert_text *text = &all->texts[i];
    int32_t status = pb_begin_text(pass, text->text, text->text_bytes, text->pair, text->pair_bytes,
                                   all->overflows ? &all->overflows[i] : NULL);
    if (status != POCKETBERT_OK)
        return status;
    if (pass->tokens.windows) {
        status = run_pack(all, pass, packed);
        return status == POCKETBERT_OK ? run_text(all, pass, i) : status;
    }
    const int32_t most = MOST_ROWS < pb_the_plan.tokens ? MOST_ROWS : pb_the_plan.tokens;
    const pb_sequence *last = packed->count ? &packed->rows[packed->count - 1] : NULL;
    pb_sequence rows = {last ? last->first + last->tokens + pb_the_plan.gap : 0, pass->tokens.count};
    if (packed->count && (packed->count == packed->room || rows.first + rows.tokens > most)) {
        status = run_pack(all, pass, packed);
        rows.first = 0;
    }
    pocketbert_tokens own = pb_own_tokens(pass->model);
    own.max_tokens = rows.tokens;
    own.ids += rows.first;
    own.segments += rows.first;
    if (pb_cut(&pass->reading, &own) != POCKETBERT_OK)
        return pb_fail(pass->model, POCKETBERT_ERROR_SHAPE, pb_no_room);
    if (!packed->count) {
        const int32_t share = (all->count - i - 1) / all->lanes_at_once + 1;
        packed->room = share < PB_MOST_PACKED ? share : PB_MOST_PACKED;
    }
    packed->texts[packed->count] = i;
    packed->rows[packed->count++] = rows;
    return status;
}

/* Texts are taken in their order, so that all before one that failed, *failed, are done. */
static int32_t run_texts(list *all, pb_pass *pass, int32_t *failed)
{
    const bool side_by_side = pb_the_plan.gap >= 0 && !pass->model->records;
    pack packed = {.count = 0};
    int32_t i = 0, status = POCKETBERT_OK;
    while (status == POCKETBERT_OK && (i = atomic_fetch_add(&all->next, 1)) < all->count)
        status = side_by_side ? pack_text(all, pass, &packed, i) : run_text(all, pass, i);
    *failed = i;
    if (packed.count) {
        const int32_t first = packed.texts[0], done = run_pack(all, pass, &packed);
        *failed = done == POCKETBERT_OK ? i : first;
        status = done == POCKETBERT_OK ? status : done;
    }
    return status;
}

static void run_lane(void *argument, int32_t thread)
{
    list *all = argument;
    pb_pass pass = {.slot = NULL};
    int32_t failed = 0, status = pb_open_pass(all->lanes[thread], all->options, &pass);
    if (status == POCKETBERT_OK)
        status = run_texts(all, &pass, &failed);
    all->failed[thread].text = failed;
    all->failed[thread].status = status;
    if (status != POCKETBERT_OK)
        atomic_store(&all->next, all->count);
    pb_close_pass(&pass);
}

static int32_t run_lanes(pb_model *model, list *all)
{
    all->lanes = pb_lanes(model);
    all->lanes_at_once = model->threads;
    if (!all->lanes)
        return POCKETBERT_ERROR_MEMORY;
    pb_pool_run(model->pool, run_lane, all);
    int32_t first = -1;
    for (int32_t i = 0; i < model->threads; i++)
        if (all->failed[i].status != POCKETBERT_OK && (first < 0 || all->failed[i].text < all->failed[first].text))
            first = i;
    return first < 0 ? POCKETBERT_OK : pb_fail(model, all->failed[first].status, all->lanes[first]->error);
}

static int32_t run_list(pocketbert_model *handle, int32_t task, const pocketbert_task_options *options, list *all)
{
    pb_pass pass;
    int32_t failed;
    bool complete = (all->texts || !all->count) && all->count >= 0 && all->each > 0 && (all->labels || all->vectors);
    for (int32_t i = 0; complete && !all->labels && i < all->count; i++)
        complete = !all->texts[i].pair;
    int32_t status = pb_begin_task(handle, task, complete, options, &pass);
    all->options = &pass.options;
    all->lanes_at_once = 1;
    if (status == POCKETBERT_OK && pass.model->threads > 1 && all->count >= pass.model->threads && !pass.model->records)
        status = run_lanes(pass.model, all);
    else if (status == POCKETBERT_OK)
        status = run_texts(all, &pass, &failed);
    return pb_end_task(&pass, status);
}

PB_PUBLIC int32_t PB(classify_all)(pocketbert_model *model, const pocketbert_text *texts, int32_t text_count,
                                   const pocketbert_task_options *options, pocketbert_label *labels, int32_t each,
                                   int32_t *overflows)
{
    list all = {.texts = texts, .count = text_count, .labels = labels, .each = each, .overflows = overflows};
    return run_list(model, POCKETBERT_CLASSIFY, options, &all);
}

PB_PUBLIC int32_t PB(embed_all)(pocketbert_model *model, const pocketbert_text *texts, int32_t text_count,
                                const pocketbert_task_options *options, float *vectors, int32_t size,
                                int32_t *overflows)
{
    list all = {.texts = texts, .count = text_count, .each = size, .overflows = overflows};
    if (PB_TASK == POCKETBERT_EMBED && size == pb_vector_size())
        all.vectors = vectors;
    return run_list(model, POCKETBERT_EMBED, options, &all);
}
