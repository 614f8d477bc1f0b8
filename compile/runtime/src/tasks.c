/* What a model's outputs say of a text: labels, a vector, entities, pieces for a mask. */
#include "runtime.h"

float expf(float x);
float sqrtf(float x);

static const pocketbert_info *task_output(void)
{
    return &pb_the_plan.outputs[PB_TASK_OUTPUT];
}

int32_t pb_vector_size(void)
{
    const pocketbert_info *info = task_output();
    return (int32_t)info->shape[info->rank - 1];
}

PB_PUBLIC const char *PB(label)(int32_t number)
{
#if PB_LABELS
    if (number >= 0 && number < PB_LABELS)
        return pb_label_text + pb_label_offsets[number];
#endif
    (void)number;
    return NULL;
}

/* Logits to probabilities, in place. */
static void activate(float *values, int32_t count, int32_t activation)
{
    float most = values[0], sum = 0;
    for (int32_t i = 1; i < count; i++)
        most = values[i] > most ? values[i] : most;
    for (int32_t i = 0; i < count && activation == PB_SOFTMAX; i++)
        sum += values[i] = expf(values[i] - most);
    for (int32_t i = 0; i < count && activation != PB_NO_ACTIVATION; i++)
        values[i] = activation == PB_SOFTMAX ? values[i] / sum : 1 / (1 + expf(-values[i]));
}

/* The best of `count` values, best first, of equal ones the first; returns how many. */
static int32_t best(const float *values, int32_t count, pocketbert_label *labels, int32_t room)
{
    int32_t kept = 0;
    for (int32_t i = 0; i < count && room > 0; i++) {
        int32_t place = kept;
        while (place > 0 && labels[place - 1].score < values[i])
            place--;
        if (place == room)
            continue;
        kept += kept < room;
        for (int32_t k = kept - 1; k > place; k--)
            labels[k] = labels[k - 1];
        labels[place] = (pocketbert_label){i, values[i]};
    }
    return kept;
}

/* Begins a call of a task: the model runs on the text unless something is wrong. pb_end_task must follow where *slot is
 * set. */
static int32_t begin(pocketbert_model *handle, int32_t task, bool complete, const char *text, size_t text_bytes,
                     const char *pair, size_t pair_bytes, pb_slot **slot, pb_task_run *run, int32_t *overflow)
{
    *slot = NULL;
    pb_slot *entered;
    int32_t status = pb_begin_task(handle, &entered);
    if (status != POCKETBERT_OK)
        return status;
    *slot = entered;
    if (task != PB_TASK)
        return pb_refuse(entered, POCKETBERT_ERROR_TASK,
                         "the model is for another task, or for none: PB(describe) says for which");
    if (!complete)
        return pb_refuse(entered, POCKETBERT_ERROR_ARGUMENT,
                         "a pointer to what the task gives is NULL, or has no room");
    status = pb_task_text(entered, text, text_bytes, pair, pair_bytes, run);
    if (status == POCKETBERT_OK && overflow)
        *overflow = run->tokens.overflow;
    return status;
}

static int32_t end(pb_slot *slot, pb_task_run *run, int32_t status)
{
    return slot ? pb_end_task(slot, run, status) : status;
}

PB_PUBLIC int32_t PB(classify)(pocketbert_model *model, const char *text, size_t text_bytes, const char *pair,
                               size_t pair_bytes, pocketbert_label *labels, int32_t room, int32_t *count,
                               int32_t *overflow)
{
    pb_slot *slot;
    pb_task_run run = {.memory = NULL};
    const int32_t status = begin(model, POCKETBERT_CLASSIFY, labels && count && room > 0, text, text_bytes, pair,
                                 pair_bytes, &slot, &run, overflow);
    if (status == POCKETBERT_OK) {
        float *logits = run.outputs[PB_TASK_OUTPUT].data;
        activate(logits, PB_LABELS, PB_ACTIVATION);
        *count = best(logits, PB_LABELS, labels, room);
    }
    return end(slot, &run, status);
}

static void pool(const float *hidden, int32_t tokens, int32_t size, float *vector)
{
    const float *last = hidden + (size_t)(tokens - 1) * (size_t)size;
    for (int32_t i = 0; i < size; i++)
        vector[i] = PB_POOLING == PB_POOL_LAST ? last[i] : hidden[i];
    for (int32_t t = 1; t < tokens && (PB_POOLING == PB_POOL_MEAN || PB_POOLING == PB_POOL_MAX); t++)
        for (int32_t i = 0; i < size; i++) {
            const float value = hidden[(size_t)t * (size_t)size + (size_t)i];
            vector[i] = PB_POOLING == PB_POOL_MEAN ? vector[i] + value : value > vector[i] ? value : vector[i];
        }
    for (int32_t i = 0; i < size && PB_POOLING == PB_POOL_MEAN; i++)
        vector[i] /= (float)tokens;
}

static void normalize(float *vector, int32_t size)
{
    double sum = 0;
    for (int32_t i = 0; i < size; i++)
        sum += (double)vector[i] * (double)vector[i];
    const float length = sqrtf((float)sum);
    for (int32_t i = 0; i < size; i++)
        vector[i] /= length > 1e-12f ? length : 1e-12f;
}

PB_PUBLIC int32_t PB(embed)(pocketbert_model *model, const char *text, size_t text_bytes, float *vector, int32_t size,
                            int32_t *overflow)
{
    pb_slot *slot;
    pb_task_run run = {.memory = NULL};
    const bool complete = PB_TASK == POCKETBERT_EMBED && vector && size >= pb_vector_size();
    const int32_t status = begin(model, POCKETBERT_EMBED, complete, text, text_bytes, NULL, 0, &slot, &run, overflow);
    if (status == POCKETBERT_OK) {
        pool(run.outputs[PB_TASK_OUTPUT].data, task_output()->rank == 3 ? run.tokens.count : 1, pb_vector_size(),
             vector);
        if (PB_UNIT_VECTORS)
            normalize(vector, pb_vector_size());
    }
    return end(slot, &run, status);
}

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

PB_PUBLIC int32_t PB(entities)(pocketbert_model *model, const char *text, size_t text_bytes,
                               pocketbert_entity *entities, int32_t room, int32_t *count, int32_t *overflow)
{
    pb_slot *slot;
    pb_task_run run = {.memory = NULL};
    const int32_t status = begin(model, POCKETBERT_ENTITIES, entities && count && room > 0, text, text_bytes, NULL, 0,
                                 &slot, &run, overflow);
    if (status != POCKETBERT_OK)
        return end(slot, &run, status);
    float *logits = run.outputs[PB_TASK_OUTPUT].data;
    pocketbert_entity entity = {.name = NULL};
    int32_t members = 0, found = 0;
    for (int32_t t = 0; t <= run.tokens.count; t++) {
        pocketbert_label label = {0, 0};
        const char *name = NULL;
        if (t < run.tokens.count) {
            if (run.tokens.texts[t] < 0)
                continue;
            float *row = logits + (size_t)t * PB_LABELS;
            activate(row, PB_LABELS, PB_SOFTMAX);
            best(row, PB_LABELS, &label, 1);
            name = PB(label)(label.label);
        }
        if (name && members && equal(without_prefix(name), entity.name) && prefix(name) != 'B') {
            members++;
            entity.score += label.score;
            entity.end = run.tokens.ends[t];
            continue;
        }
        if (members && !equal(entity.name, "O")) {
            entity.score /= (float)members;
            if (found < room)
                entities[found] = entity;
            found++;
        }
        members = name != NULL;
        if (name)
            entity = (pocketbert_entity){without_prefix(name), label.score, run.tokens.begins[t], run.tokens.ends[t]};
    }
    *count = found;
    return end(slot, &run, status);
}

PB_PUBLIC int32_t PB(fill)(pocketbert_model *model, const char *text, size_t text_bytes, pocketbert_label *pieces,
                           int32_t each, int32_t room, int32_t *masks, int32_t *overflow)
{
    pb_slot *slot;
    pb_task_run run = {.memory = NULL};
    const int32_t status = begin(model, POCKETBERT_FILL, pieces && masks && each > 0 && room >= each, text, text_bytes,
                                 NULL, 0, &slot, &run, overflow);
    if (status != POCKETBERT_OK)
        return end(slot, &run, status);
    const int32_t size = pb_vector_size();
    const int32_t most = each < size ? each : size;
    float *logits = run.outputs[PB_TASK_OUTPUT].data;
    int32_t found = 0;
    for (int32_t t = 0; t < run.tokens.count; t++) {
        if (run.tokens.ids[t] != PB_MASK)
            continue;
        if (found < room / each) {
            float *row = logits + (size_t)t * (size_t)size;
            activate(row, size, PB_SOFTMAX);
            pocketbert_label *to = pieces + (size_t)found * (size_t)each;
            for (int32_t k = best(row, size, to, most); k < each; k++)
                to[k] = (pocketbert_label){-1, 0};
        }
        found++;
    }
    *masks = found;
    return end(slot, &run, status);
}
