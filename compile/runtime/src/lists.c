/* Many texts in one call: each on a thread of its own where there are as many texts as threads. */
#include "tasks.h"

enum { MAX_THREADS = 64 };

typedef struct {
    pb_model **lanes;
    const pocketbert_text *texts;
    int32_t count;
    const pocketbert_task_options *options;
    pocketbert_label *labels; /* `each` a text; or NULL, and there are vectors */
    float *vectors;
    int32_t each;
    int32_t *overflows;
    _Atomic int32_t next;
    struct {
        int32_t text, status; /* of the first of a thread's texts that failed */
    } failed[MAX_THREADS];
} list;

static int32_t run_text(const list *all, pb_pass *pass, int32_t i)
{
    int32_t count, *overflow = all->overflows ? &all->overflows[i] : NULL;
    const size_t to = (size_t)i * (size_t)all->each;
    if (!all->labels)
        return pb_embed_text(pass, &all->texts[i], all->vectors + to, overflow);
    const int32_t status = pb_classify_text(pass, &all->texts[i], all->labels + to, all->each, &count, overflow);
    for (int32_t k = status == POCKETBERT_OK ? count : 0; k < all->each; k++)
        all->labels[to + (size_t)k] = (pocketbert_label){-1, 0};
    return status;
}

/* Texts are taken in their order, so that all before one that failed are done. */
static void run_lane(void *argument, int32_t thread)
{
    list *all = argument;
    pb_pass pass = {.slot = NULL};
    int32_t i = 0, status = pb_open_pass(all->lanes[thread], all->options, &pass);
    while (status == POCKETBERT_OK && (i = atomic_fetch_add(&all->next, 1)) < all->count)
        status = run_text(all, &pass, i);
    all->failed[thread].text = i;
    all->failed[thread].status = status;
    if (status != POCKETBERT_OK)
        atomic_store(&all->next, all->count);
    pb_close_pass(&pass);
}

static int32_t run_lanes(pb_model *model, list *all)
{
    all->lanes = pb_lanes(model);
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
    bool complete = (all->texts || !all->count) && all->count >= 0 && all->each > 0 && (all->labels || all->vectors);
    for (int32_t i = 0; complete && !all->labels && i < all->count; i++)
        complete = !all->texts[i].pair;
    int32_t status = pb_begin_task(handle, task, complete, options, &pass);
    all->options = &pass.options;
    if (status == POCKETBERT_OK && pass.model->threads > 1 && all->count >= pass.model->threads && !pass.model->records)
        status = run_lanes(pass.model, all);
    else
        for (int32_t i = 0; status == POCKETBERT_OK && i < all->count; i++)
            status = run_text(all, &pass, i);
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
