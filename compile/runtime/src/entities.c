/* What is named in a text: tokens side by side that have one label. */
#include "tasks.h"

/* Whether the label begins with B- or I-: its letter, else 0. */
static char prefix(const char *label)
{
    return (label[0] == 'B' || label[0] == 'I') && label[1] == '-' ? label[0] : 0;
}

static const char *without_prefix(const char *label)
{
    return prefix(label) ? label + 2 : label;
}

static bool equal(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

/* Entities, as many as come: room grows with them. */
typedef struct {
    pb_reader memory;
    pb_block block;
    int32_t count;
} list;

static void add(list *found, pocketbert_entity entity)
{
    const size_t bytes = ((size_t)found->count + 1) * sizeof entity;
    pocketbert_entity *at = pb_reserve(&found->memory, &found->block, bytes <= found->block.bytes ? bytes : 2 * bytes);
    if (at)
        at[found->count++] = entity;
}

static void add_window(pb_pass *pass, list *found)
{
    float *logits = pass->outputs[PB_TASK_OUTPUT].data;
    pocketbert_entity entity = {.name = NULL};
    int32_t members = 0;
    for (int32_t t = 0; t <= pass->tokens.count; t++) {
        float score = 0;
        const char *name = NULL;
        if (t < pass->tokens.count) {
            if (pass->tokens.texts[t] < 0)
                continue;
            float *row = logits + (size_t)t * PB_LABELS;
            pb_activate(row, PB_LABELS, PB_SOFTMAX);
            int32_t label = 0;
            for (int32_t i = 1; i < PB_LABELS; i++)
                label = row[i] > row[label] ? i : label;
            score = row[label];
            name = PB(label)(label);
        }
        if (name && members && equal(without_prefix(name), entity.name) && prefix(name) != 'B') {
            members++;
            entity.score += score;
            entity.end = pass->tokens.ends[t];
            continue;
        }
        if (members && !equal(entity.name, "O")) {
            entity.score /= (float)members;
            if (!(entity.score < pass->options.threshold))
                add(found, entity);
        }
        members = name != NULL;
        if (name)
            entity = (pocketbert_entity){without_prefix(name), score, pass->tokens.begins[t], pass->tokens.ends[t]};
    }
}

/* Of those that overlap the longest stays, then the more probable; windows show the same ones twice. */
static void merge(list *found)
{
    pocketbert_entity *at = (pocketbert_entity *)(void *)found->block.at;
    for (int32_t i = 1; i < found->count; i++) { /* nearly in order, but for what neighbouring windows share */
        const pocketbert_entity entity = at[i];
        int32_t place = i;
        for (; place > 0 && at[place - 1].begin > entity.begin; place--)
            at[place] = at[place - 1];
        at[place] = entity;
    }
    int32_t kept = 0;
    for (int32_t i = 1; i < found->count; i++) {
        const int64_t length = at[i].end - at[i].begin, before = at[kept].end - at[kept].begin;
        if (at[i].begin >= at[kept].end)
            at[++kept] = at[i];
        else if (length > before || (length == before && at[i].score > at[kept].score))
            at[kept] = at[i];
    }
    found->count = found->count ? kept + 1 : 0;
}

PB_PUBLIC int32_t PB(entities)(pocketbert_model *handle, const char *text, size_t text_bytes,
                               const pocketbert_task_options *options, pocketbert_entity *entities, int32_t room,
                               int32_t *count, int32_t *overflow)
{
    pb_pass pass;
    list found = {.count = 0};
    int32_t status = pb_begin_task(handle, POCKETBERT_ENTITIES, entities && count && room > 0, options, &pass);
    if (status == POCKETBERT_OK)
        status = pb_begin_text(&pass, text, text_bytes, NULL, 0, overflow);
    while (status == POCKETBERT_OK && pass.more && (status = pb_next_window(&pass)) == POCKETBERT_OK) {
        add_window(&pass, &found);
        if (found.memory.failed)
            status = pb_fail(pass.model, POCKETBERT_ERROR_MEMORY, "entities: out of memory for what was found");
    }
    if (status == POCKETBERT_OK) {
        if (pass.tokens.windows)
            merge(&found);
        *count = found.count;
        for (int32_t i = 0; i < found.count && i < room; i++)
            entities[i] = ((const pocketbert_entity *)(const void *)found.block.at)[i];
    }
    if (found.block.bytes)
        pb_free_pages(found.block.at, found.block.bytes);
    return pb_end_task(&pass, status);
}
