/* What a caller gives for a run, held to the model's description. */
#include "model.h"

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

uintptr_t pb_end_of(const pocketbert_tensor *tensor)
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
        if ((uintptr_t)output->data < pb_end_of(&others[i]) && (uintptr_t)others[i].data < pb_end_of(output))
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
    model->context.block_rows = pb_block_rows(model, model->context.tokens);
}

int32_t pb_check(pb_model *model, const pocketbert_tensor *inputs, int32_t input_count,
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
