/* Text to tokens, and a run on them. */
#include "model.h"
#include "text.h"

enum { MAX_TEXT = 1 << 28 }; /* bytes */

const char pb_no_room[] = "text: the first text leaves no room for a window of the second: shorten it";
const char pb_no_memory[] = "text: out of memory for its tokens";

int32_t pb_check_text(pb_model *model, const char *text, size_t text_bytes, const char *pair, size_t pair_bytes,
                      int32_t max_tokens)
{
    if (!PB_PIECES)
        return pb_fail(model, POCKETBERT_ERROR_VOCABULARY,
                       "the library has no tokenizer: build it from a folder that has one, or with --vocab vocab.txt");
    if ((!text && text_bytes) || (!pair && pair_bytes))
        return pb_fail(model, POCKETBERT_ERROR_ARGUMENT, "text: `text` or `pair` is NULL but has bytes");
    if (text_bytes > MAX_TEXT || pair_bytes > MAX_TEXT)
        return pb_fail(model, POCKETBERT_ERROR_ARGUMENT, "text: longer than 256 MiB");
    if (max_tokens < pb_template_size(pair) || max_tokens < 0)
        return pb_fail(model, POCKETBERT_ERROR_ARGUMENT,
                       "text: there is no room for the special pieces around the texts");
    return POCKETBERT_OK;
}

/* Of texts that have been checked. */
static int32_t encode(pb_model *model, const char *text, size_t text_bytes, const char *pair, size_t pair_bytes,
                      pocketbert_tokens *tokens)
{
    const int32_t status = pb_text_tokens(text, text_bytes, pair, pair_bytes, tokens);
    return status == POCKETBERT_OK            ? status
           : status == POCKETBERT_ERROR_SHAPE ? pb_fail(model, status, pb_no_room)
                                              : pb_fail(model, status, pb_no_memory);
}

PB_PUBLIC int32_t PB(tokenize)(const char *text, size_t text_bytes, const char *pair, size_t pair_bytes,
                               int32_t max_tokens, int64_t *ids, int64_t *segments, int32_t *count)
{
    const int32_t status = pb_check_text(NULL, text, text_bytes, pair, pair_bytes, max_tokens);
    if (status != POCKETBERT_OK)
        return status;
    if (!ids || !segments || !count)
        return pb_fail(NULL, POCKETBERT_ERROR_ARGUMENT, "tokenize: `ids`, `segments` or `count` is NULL");
    pocketbert_tokens tokens = {.size = sizeof tokens, .max_tokens = max_tokens, .ids = ids, .segments = segments};
    const int32_t result = encode(NULL, text, text_bytes, pair, pair_bytes, &tokens);
    *count = tokens.count;
    return result;
}

PB_PUBLIC int32_t PB(encode)(const char *text, size_t text_bytes, const char *pair, size_t pair_bytes,
                             pocketbert_tokens *tokens)
{
    pocketbert_tokens read;
    if (!tokens || !pb_read_struct(tokens, offsetof(pocketbert_tokens, words), &read, sizeof read))
        return pb_fail(NULL, POCKETBERT_ERROR_ARGUMENT,
                       "encode: `tokens` is NULL, or tokens->size is not sizeof(pocketbert_tokens)");
    int32_t status = pb_check_text(NULL, text, text_bytes, pair, pair_bytes, read.max_tokens);
    if (status != POCKETBERT_OK)
        return status;
    if (!read.ids || read.windows < 0 || read.windows > 1 || read.skip < 0)
        return pb_fail(NULL, POCKETBERT_ERROR_ARGUMENT,
                       "encode: tokens->ids is NULL, tokens->windows not 0 or 1, or tokens->skip negative");
    status = encode(NULL, text, text_bytes, pair, pair_bytes, &read);
    tokens->count = read.count;
    tokens->overflow = read.overflow;
    return status;
}

PB_PUBLIC const char *PB(token)(int32_t id)
{
    return pb_piece(id);
}

int32_t pb_most_text_tokens(void)
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

pocketbert_tokens pb_own_tokens(pb_model *model)
{
    pocketbert_tokens tokens = {.size = sizeof tokens, .max_tokens = pb_most_text_tokens()};
    tokens.ids = model->text + PB_TEXT_IDS * (size_t)pb_the_plan.tokens;
    tokens.segments = model->text + PB_TEXT_SEGMENTS * (size_t)pb_the_plan.tokens;
    return tokens;
}

int32_t pb_run_tokens(pb_model *model, const pb_sequence *sequences, int32_t sequence_count, pocketbert_tensor *outputs,
                      int32_t output_count)
{
    static const uint8_t takes[] = {PB_TEXT_INPUTS};
    enum { INPUTS = sizeof takes };
    const pb_plan *plan = &pb_the_plan;
    int64_t *values[] = {model->text, model->text + plan->tokens, model->text + 2 * (size_t)plan->tokens};
    const pb_sequence last = sequences[sequence_count - 1];
    const int32_t length = plan->inputs[0].token_axis < 0 ? plan->tokens : last.first + last.tokens;
    for (int32_t i = 0, s = 0; i < length; i++) {
        s += s < sequence_count && i == sequences[s].first + sequences[s].tokens;
        const bool inside = s < sequence_count && i >= sequences[s].first;
        values[PB_TEXT_MASK][i] = inside;
        if (!inside) {
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
            outputs[i].shape[axis] = pb_dimension(info, axis, length, 1);
    }
    model->packed = sequence_count > 1 ? sequences : NULL;
    model->packed_count = sequence_count;
    const int32_t status = pb_run_model(model, inputs, INPUTS, outputs, output_count);
    model->packed = NULL;
    return status;
}

static int32_t run_text(pb_model *model, const char *text, size_t text_bytes, const char *pair, size_t pair_bytes,
                        pocketbert_tensor *outputs, int32_t output_count, int32_t *tokens)
{
    int32_t status = pb_check_text(model, text, text_bytes, pair, pair_bytes, pb_most_text_tokens());
    if (status != POCKETBERT_OK)
        return status;
    if (!outputs || output_count != pb_the_plan.output_count)
        return pb_fail(model, POCKETBERT_ERROR_ARGUMENT, "run_text: `outputs` is NULL or not as many as the model's");
    pocketbert_tokens given = pb_own_tokens(model);
    status = encode(model, text, text_bytes, pair, pair_bytes, &given);
    if (status != POCKETBERT_OK)
        return status;
    if (tokens)
        *tokens = given.count;
    const pb_sequence all = {0, given.count};
    return pb_run_tokens(model, &all, 1, outputs, output_count);
}

PB_PUBLIC int32_t PB(run_text)(pocketbert_model *handle, const char *text, size_t text_bytes, const char *pair,
                               size_t pair_bytes, pocketbert_tensor *outputs, int32_t output_count, int32_t *tokens)
{
    pb_slot *slot;
    const int32_t status = pb_begin_run(handle, &slot);
    if (status != POCKETBERT_OK)
        return status;
    return pb_end_run(
        slot, run_text(pb_handle_model(slot), text, text_bytes, pair, pair_bytes, outputs, output_count, tokens));
}
