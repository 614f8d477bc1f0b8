/* What a library tells of itself, its models and what went wrong. */
#include "model.h"

static const char *_Atomic open_error = "no error";

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

const char *pb_handle_error(int32_t status)
{
    return status == POCKETBERT_ERROR_FORK
               ? "the model was opened before fork(), and its threads are the parent's: open another"
               : "the model is NULL, closed or of another library: open it first";
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

PB_PUBLIC const char *PB(last_error)(const pocketbert_model *handle)
{
    if (!handle)
        return atomic_load(&open_error);
    pb_slot *slot;
    const int32_t status = pb_handle_enter(handle, &slot);
    if (status != POCKETBERT_OK)
        return pb_handle_error(status);
    const char *error = pb_handle_model(slot)->error;
    pb_handle_leave(slot);
    return error;
}

PB_PUBLIC void PB(describe)(pocketbert_description *description)
{
    if (!description)
        return;
    const pb_level *level = pb_choose_level();
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
#if PB_PIECES
        .facts = pb_facts,
#else
        .facts = "{}",
#endif
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
