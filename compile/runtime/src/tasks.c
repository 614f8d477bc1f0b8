/* What a model's outputs say of a text: labels, a vector, entities, pieces for a mask. */
#include "tasks.h"

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

void pb_activate(float *values, int32_t count, int32_t activation)
{
    float most = values[0], sum = 0;
    for (int32_t i = 1; i < count; i++)
        most = values[i] > most ? values[i] : most;
    for (int32_t i = 0; i < count && activation == PB_SOFTMAX; i++)
        sum += values[i] = expf(values[i] - most);
    for (int32_t i = 0; i < count && activation != PB_NO_ACTIVATION; i++)
        values[i] = activation == PB_SOFTMAX ? values[i] / sum : 1 / (1 + expf(-values[i]));
}

static bool contains(const int32_t *numbers, int32_t count, int32_t number)
{
    for (int32_t i = 0; i < count; i++)
        if (numbers[i] == number)
            return true;
    return false;
}

/* The best of `count` values that the options allow, best first, of equal ones the first; returns how many. */
static int32_t best(const float *values, int32_t count, const pocketbert_task_options *options,
                    pocketbert_label *labels, int32_t room)
{
    int32_t kept = 0;
    for (int32_t i = 0; i < count && room > 0; i++) {
        if (options && ((options->allow && !contains(options->allow, options->allow_count, i)) ||
                        contains(options->deny, options->deny_count, i) ||
                        (PB_ACTIVATION != PB_NO_ACTIVATION && values[i] < options->threshold)))
            continue;
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

int32_t pb_take_labels(const pocketbert_task_options *options, float *logits, pocketbert_label *labels, int32_t room)
{
    pb_activate(logits, PB_LABELS, PB_ACTIVATION);
    return best(logits, PB_LABELS, options, labels, room);
}

int32_t pb_classify_text(pb_pass *pass, const pocketbert_text *text, pocketbert_label *labels, int32_t room,
                         int32_t *count, int32_t *overflow)
{
    float *total = pass->vector;
    int32_t windows = 0,
            status = pb_begin_text(pass, text->text, text->text_bytes, text->pair, text->pair_bytes, overflow);
    for (; status == POCKETBERT_OK && pass->more; windows++) {
        status = pb_next_window(pass);
        float *values = pass->outputs[PB_TASK_OUTPUT].data;
        if (status == POCKETBERT_OK)
            pb_activate(values, PB_LABELS, PB_ACTIVATION);
        for (int32_t i = 0; status == POCKETBERT_OK && i < PB_LABELS; i++)
            total[i] = windows ? total[i] + values[i] : values[i];
    }
    for (int32_t i = 0; status == POCKETBERT_OK && windows > 1 && i < PB_LABELS; i++)
        total[i] /= (float)windows;
    if (status == POCKETBERT_OK)
        *count = best(total, PB_LABELS, &pass->options, labels, room);
    return status;
}

PB_PUBLIC int32_t PB(classify)(pocketbert_model *handle, const char *text, size_t text_bytes, const char *pair,
                               size_t pair_bytes, const pocketbert_task_options *options, pocketbert_label *labels,
                               int32_t room, int32_t *count, int32_t *overflow)
{
    const pocketbert_text texts = {text, text_bytes, pair, pair_bytes};
    pb_pass pass;
    int32_t status = pb_begin_task(handle, POCKETBERT_CLASSIFY, labels && count && room > 0, options, &pass);
    if (status == POCKETBERT_OK)
        status = pb_classify_text(&pass, &texts, labels, room, count, overflow);
    return pb_end_task(&pass, status);
}

static void pool(const float *hidden, int32_t tokens, int32_t size, float *vector)
{
    const float *last = hidden + (size_t)(tokens - 1) * (size_t)size;
    for (int32_t i = 0; i < size; i++)
        vector[i] = PB_POOLING == PB_POOL_LAST ? last[i] : hidden[i];
    for (int32_t t = 1; t < tokens && (PB_POOLING == PB_POOL_MEAN || PB_POOLING == PB_POOL_MAX); t++)
        for (int32_t i = 0; i < size; i++) {
            const float value = hidden[(size_t)t * (size_t)size + (size_t)i];
            const bool more = value > vector[i] || value != value; /* what is no number stays */
            vector[i] = PB_POOLING == PB_POOL_MEAN ? vector[i] + value : more ? value : vector[i];
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
        vector[i] /= length < 1e-12f ? 1e-12f : length;
}

void pb_take_vector(const float *output, int32_t tokens, float *vector)
{
    pool(output, task_output()->rank == 3 ? tokens : 1, pb_vector_size(), vector);
    if (PB_UNIT_VECTORS)
        normalize(vector, pb_vector_size());
}

int32_t pb_embed_text(pb_pass *pass, const pocketbert_text *text, float *vector, int32_t *overflow)
{
    const int32_t size = pb_vector_size();
    float weight = 0, *of_window = pass->vector;
    int32_t windows = 0, status = pb_begin_text(pass, text->text, text->text_bytes, NULL, 0, overflow);
    for (; status == POCKETBERT_OK && pass->more; windows++) {
        status = pb_next_window(pass);
        if (status != POCKETBERT_OK)
            break;
        const int32_t tokens = pass->tokens.count;
        pool(pass->outputs[PB_TASK_OUTPUT].data, task_output()->rank == 3 ? tokens : 1, size,
             windows ? of_window : vector);
        const bool several = windows || pass->more;
        for (int32_t i = 0; several && i < size; i++)
            vector[i] = windows ? vector[i] + (float)tokens * of_window[i] : (float)tokens * vector[i];
        weight += (float)tokens;
    }
    for (int32_t i = 0; status == POCKETBERT_OK && windows > 1 && i < size; i++)
        vector[i] /= weight;
    if (status == POCKETBERT_OK && PB_UNIT_VECTORS)
        normalize(vector, size);
    return status;
}

PB_PUBLIC int32_t PB(embed)(pocketbert_model *handle, const char *text, size_t text_bytes,
                            const pocketbert_task_options *options, float *vector, int32_t size, int32_t *overflow)
{
    const pocketbert_text texts = {text, text_bytes, NULL, 0};
    pb_pass pass;
    const bool complete = PB_TASK == POCKETBERT_EMBED && vector && size >= pb_vector_size();
    int32_t status = pb_begin_task(handle, POCKETBERT_EMBED, complete, options, &pass);
    if (status == POCKETBERT_OK)
        status = pb_embed_text(&pass, &texts, vector, overflow);
    return pb_end_task(&pass, status);
}

/* Which tokens of the text are read in this window, and not in its neighbours: those nearer to its middle. */
static bool is_own(const pb_pass *pass, int32_t place)
{
    const int32_t begin = pass->tokens.skip ? pass->tokens.skip + pass->stride / 2 : 0;
    return place >= begin && (!pass->more || place < pass->next + pass->stride / 2);
}

/* Mark the masks of this window; returns whether there are any. */
static bool ask(pb_pass *pass)
{
    bool any = false;
    int32_t place = pass->tokens.skip;
    for (int32_t t = 0; t < pass->tokens.count; t++) {
        const bool own = pass->tokens.texts[t] < 0 || is_own(pass, place);
        place += pass->tokens.texts[t] >= 0;
        pass->asked[t] = pass->tokens.ids[t] == PB_MASK && own;
        any |= pass->asked[t];
    }
    return any;
}

PB_PUBLIC int32_t PB(fill)(pocketbert_model *handle, const char *text, size_t text_bytes,
                           const pocketbert_task_options *options, pocketbert_label *pieces, int32_t each, int32_t room,
                           int32_t *masks, int32_t *overflow)
{
    pb_pass pass;
    const bool complete = pieces && masks && each > 0 && room >= each;
    int32_t status = pb_begin_task(handle, POCKETBERT_FILL, complete, options, &pass);
    if (status == POCKETBERT_OK)
        status = pb_begin_text(&pass, text, text_bytes, NULL, 0, overflow);
    const int32_t size = pb_vector_size(), most = each < size ? each : size;
    int32_t found = 0;
    while (status == POCKETBERT_OK && pass.more && (status = pb_next_tokens(&pass)) == POCKETBERT_OK) {
        if (!ask(&pass))
            continue;
        status = pb_run_window(&pass);
        float *logits = pass.outputs[PB_TASK_OUTPUT].data;
        for (int32_t t = 0; status == POCKETBERT_OK && t < pass.tokens.count; t++) {
            if (!pass.asked[t])
                continue;
            if (found < room / each) {
                float *row = logits + (size_t)t * (size_t)size;
                pb_activate(row, size, PB_SOFTMAX);
                pocketbert_label *to = pieces + (size_t)found * (size_t)each;
                for (int32_t k = best(row, size, NULL, to, most); k < each; k++)
                    to[k] = (pocketbert_label){-1, 0};
            }
            found++;
        }
    }
    if (status == POCKETBERT_OK)
        *masks = found;
    return pb_end_task(&pass, status);
}
