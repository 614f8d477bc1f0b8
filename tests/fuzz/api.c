/* libFuzzer harness: the input's bytes say which functions of a model are called, in which order and with what.
 *
 * Nothing may come back but codes and messages, whatever the bytes; and what is right must be accepted. Buffers are
 * exactly as large as they are said to be, so that AddressSanitizer sees every access beyond them.
 *
 * Compile with -DMODEL=<name> for the model to call. CONTRIBUTING.md has the commands.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "pocketbert.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
const pocketbert_functions *JOIN(MODEL, _functions)(void);

enum { MAX_TENSORS = 8, MODELS = 4, STEPS = 8 };

static const pocketbert_functions *api;
static pocketbert_description model;
static const uint8_t *bytes, *end;

/* The next bytes of the input; zeros after its end. */
static void take(void *to, size_t count)
{
    const size_t left = (size_t)(end - bytes);
    memset(to, 0, count);
    memcpy(to, bytes, count < left ? count : left);
    bytes += count < left ? count : left;
}

static uint64_t number(size_t size)
{
    uint64_t value = 0;
    take(&value, size);
    return value;
}

static int one_in(uint64_t n)
{
    return number(1) % n == n - 1;
}

static void check_status(int32_t status, const pocketbert_model *handle)
{
    CHECK(status >= POCKETBERT_OK && status <= POCKETBERT_ERROR_CANCELLED);
    CHECK(strlen(api->last_error(handle)) > 0);
}

/* Options of any size, of which so many bytes exist. */
static void open_model(pocketbert_model **handle)
{
    if (one_in(4)) {
        CHECK(api->open(NULL, NULL) == POCKETBERT_ERROR_ARGUMENT);
        return;
    }
    const size_t size = number(1);
    pocketbert_options *options = malloc(size < sizeof options->size ? sizeof options->size : size);
    CHECK(options);
    take(options, size);
    options->size = size;
    for (size_t i = 24; i < size && i < sizeof *options; i++)
        ((char *)options)[i] = 0; /* pointers are the caller's word */
    if (size >= 12 && one_in(2))
        options->threads = 1 + options->threads % 2;
    check_status(api->open(options, handle), NULL);
    free(options);
    if (!*handle)
        CHECK(api->open(NULL, handle) == POCKETBERT_OK && *handle);
}

/* An open model mostly; else one that was never opened, or has been closed since. */
static pocketbert_model *any_handle(pocketbert_model **open, pocketbert_model *const *closed, int *valid)
{
    *valid = 0;
    if (one_in(4))
        return closed[number(1) % MODELS];
    if (one_in(8))
        return (pocketbert_model *)(uintptr_t)number(8);
    pocketbert_model **handle = &open[number(1) % MODELS];
    const pocketbert_options one_thread = {.size = sizeof one_thread, .threads = 1};
    if (!*handle)
        CHECK(api->open(&one_thread, handle) == POCKETBERT_OK);
    *valid = 1;
    return *handle;
}

static size_t element_size(int32_t type)
{
    return type == POCKETBERT_INT64 ? 8 : type == POCKETBERT_BOOL ? 1 : 4;
}

/* A tensor as the description has it, for `tokens` tokens; its memory is exactly as large. */
static pocketbert_tensor right_tensor(const pocketbert_info *info, int32_t tokens)
{
    pocketbert_tensor tensor = {.type = info->type, .rank = info->rank};
    size_t count = 1;
    for (int32_t i = 0; i < info->rank; i++) {
        tensor.shape[i] = i == info->token_axis ? tokens : info->shape[i];
        count *= (size_t)tensor.shape[i];
    }
    CHECK(count * element_size(info->type) <= info->bytes);
    tensor.data = malloc(count * element_size(info->type));
    CHECK(tensor.data);
    memset(tensor.data, 0, count * element_size(info->type));
    return tensor;
}

/* Something that no description says. */
static void spoil(pocketbert_tensor *tensor)
{
    const uint64_t what = number(1) % 5;
    const int32_t value = 1 + (int32_t)number(3);
    if (what == 0)
        tensor->data = NULL;
    else if (what == 1)
        tensor->data = (char *)tensor->data + 1 + value % 3;
    else if (what == 2)
        tensor->type += value;
    else if (what == 3)
        tensor->rank += value;
    else
        tensor->shape[0] ^= (int64_t)(number(8) | 2);
}

/* Fills inputs with ids inside their tables or, sometimes, with any bytes. Returns whether all ids are inside. */
static int fill(pocketbert_tensor *inputs, int32_t tokens)
{
    int inside = 1;
    for (int32_t i = 0; i < model.input_count; i++) {
        const pocketbert_info *info = &model.inputs[i];
        const size_t longest = info->bytes / element_size(info->type);
        const size_t count = info->token_axis < 0 ? longest : longest / (size_t)model.tokens * (size_t)tokens;
        const int any = one_in(4);
        for (size_t j = 0; j < count; j++) {
            const int64_t range = info->high - info->low;
            int64_t id = (int64_t)number(any ? 8 : 1);
            if (!any && range)
                id = info->low + id % range;
            if (info->type == POCKETBERT_INT64)
                ((int64_t *)inputs[i].data)[j] = id;
            else
                ((int32_t *)inputs[i].data)[j] = (int32_t)(id = (int32_t)id);
            inside &= !range || (id >= info->low && id < info->high);
        }
    }
    return inside;
}

static void run(pocketbert_model *handle, int valid)
{
    pocketbert_tensor inputs[MAX_TENSORS], outputs[MAX_TENSORS], given[2][MAX_TENSORS];
    const int32_t tokens = 1 + (int32_t)number(1) % model.tokens;
    for (int32_t i = 0; i < model.input_count; i++)
        inputs[i] = right_tensor(&model.inputs[i], tokens);
    for (int32_t i = 0; i < model.output_count; i++)
        outputs[i] = right_tensor(&model.outputs[i], tokens);
    const int inside = fill(inputs, tokens);
    memcpy(given[0], inputs, sizeof inputs);
    memcpy(given[1], outputs, sizeof outputs);
    int32_t input_count = model.input_count, output_count = model.output_count;
    int right = valid && inside;
    if (one_in(4)) {
        const uint64_t index = number(1) % (uint64_t)(input_count + output_count);
        spoil(index < (uint64_t)input_count ? &given[0][index] : &given[1][index - (uint64_t)input_count]);
        right = 0;
    }
    if (one_in(8)) { /* an output over another tensor */
        pocketbert_tensor *output = &given[1][number(1) % (uint64_t)output_count];
        const pocketbert_tensor *other = one_in(2) ? &given[0][0] : &given[1][0];
        if (other != output) {
            output->data = other->data;
            right = 0;
        }
    }
    if (one_in(8)) {
        input_count = (int32_t)number(4);
        output_count = (int32_t)number(4);
        right = right && input_count == model.input_count && output_count == model.output_count;
    }
    const int32_t status = api->run(handle, given[0], input_count, given[1], output_count);
    check_status(status, handle);
    CHECK((status == POCKETBERT_OK) == right);
    CHECK(api->run(handle, NULL, input_count, given[1], output_count) == POCKETBERT_ERROR_ARGUMENT);
    for (int32_t i = 0; i < model.input_count; i++)
        free(inputs[i].data);
    for (int32_t i = 0; i < model.output_count; i++)
        free(outputs[i].data);
}

/* Text is the rest of the input, cut in two where there is a pair; it ends where its memory does. */
static char *take_text(size_t *count)
{
    *count = (size_t)(end - bytes);
    if (one_in(2))
        *count = *count ? number(2) % *count : 0;
    if (*count > (size_t)(end - bytes))
        *count = (size_t)(end - bytes);
    char *text = malloc(*count ? *count : 1);
    CHECK(text);
    take(text, *count);
    return text;
}

static void tokenize(void)
{
    const int32_t room = (int32_t)(one_in(8) ? number(4) % 100000 : number(1) % 40) - 2;
    int64_t *ids = malloc(room > 0 ? (size_t)room * sizeof *ids : 1);
    int64_t *segments = malloc(room > 0 ? (size_t)room * sizeof *segments : 1);
    size_t text_bytes, pair_bytes;
    const int paired = one_in(3);
    char *text = take_text(&text_bytes), *pair = take_text(&pair_bytes);
    int32_t count = -1;
    const int32_t status =
        api->tokenize(text, text_bytes, paired ? pair : NULL, paired ? pair_bytes : 0, room, ids, segments, &count);
    check_status(status, NULL);
    CHECK((status == POCKETBERT_OK) == (room >= (paired ? 3 : 2)));
    CHECK(status != POCKETBERT_OK || (count >= 2 && count <= room));
    for (int32_t i = 0; status == POCKETBERT_OK && i < count; i++)
        CHECK(api->token((int32_t)ids[i]) && segments[i] >= 0 && segments[i] <= paired);
    CHECK(api->tokenize(NULL, 1, NULL, 0, room, ids, segments, &count) == POCKETBERT_ERROR_ARGUMENT);
    free(ids), free(segments), free(text), free(pair);
}

static void run_text(pocketbert_model *handle, int valid)
{
    pocketbert_tensor outputs[MAX_TENSORS];
    for (int32_t i = 0; i < model.output_count; i++) {
        outputs[i] = right_tensor(&model.outputs[i], model.tokens);
        outputs[i].type = outputs[i].rank = (int32_t)number(1);
    }
    size_t text_bytes, pair_bytes;
    const int paired = one_in(3);
    char *text = take_text(&text_bytes), *pair = take_text(&pair_bytes);
    int32_t tokens = -1;
    const int32_t status = api->run_text(handle, text, text_bytes, paired ? pair : NULL, paired ? pair_bytes : 0,
                                         outputs, model.output_count, &tokens);
    check_status(status, handle);
    CHECK((status == POCKETBERT_OK) == valid);
    CHECK(!valid || (tokens >= 2 && tokens <= model.tokens));
    for (int32_t i = 0; i < model.output_count; i++)
        free(outputs[i].data);
    free(text), free(pair);
}

/* What `size` says of the struct exists, and no more; arrays are as long as `max_tokens` says. */
static void encode(void)
{
    enum { ALL = sizeof(pocketbert_tokens) };
    const size_t size = one_in(8) ? number(1) : ALL + 8 * (number(1) % 3);
    const int32_t room = (int32_t)(number(1) % 40) - 2;
    const size_t arrays = room > 0 ? (size_t)room * sizeof(int64_t) : 1;
    pocketbert_tokens whole = {.size = size, .max_tokens = room, .windows = (int32_t)number(1) % 3};
    whole.skip = (int32_t)(number(1) % 12) - 1;
    whole.ids = one_in(8) ? NULL : malloc(arrays);
    whole.segments = one_in(4) ? NULL : malloc(arrays);
    whole.texts = one_in(4) ? NULL : malloc(room > 0 ? (size_t)room : 1);
    whole.begins = one_in(4) ? NULL : malloc(arrays);
    whole.ends = whole.begins ? malloc(arrays) : NULL;
    whole.words = one_in(4) ? NULL : malloc(arrays);
    pocketbert_tokens *tokens = calloc(1, size < sizeof size ? sizeof size : size);
    CHECK(tokens);
    memcpy(tokens, &whole, size < sizeof size ? sizeof size : size < sizeof whole ? size : sizeof whole);
    size_t bytes_of[2];
    const int paired = one_in(3);
    char *text = take_text(&bytes_of[0]), *pair = take_text(&bytes_of[1]);
    const int right = size >= offsetof(pocketbert_tokens, words) && size <= 256 && size % 8 == 0 &&
                      room >= (paired ? 3 : 2) && whole.ids && whole.windows <= 1 && whole.skip >= 0;
    const int32_t status = api->encode(text, bytes_of[0], paired ? pair : NULL, paired ? bytes_of[1] : 0, tokens);
    check_status(status, NULL);
    CHECK(right == (status == POCKETBERT_OK || (status == POCKETBERT_ERROR_SHAPE && whole.windows && paired)));
    if (status == POCKETBERT_OK)
        CHECK(tokens->count >= (paired ? 3 : 2) && tokens->count <= room && tokens->overflow >= 0);
    for (int32_t i = 0; status == POCKETBERT_OK && i < tokens->count; i++) {
        const int of = whole.texts ? whole.texts[i] : 0;
        CHECK(api->token((int32_t)whole.ids[i]) && of >= -1 && of <= paired);
        if (whole.texts && whole.begins)
            CHECK(of < 0 ? whole.begins[i] == 0 && whole.ends[i] == 0
                         : whole.begins[i] <= whole.ends[i] && (size_t)whole.ends[i] <= bytes_of[of]);
    }
    CHECK(api->encode(text, bytes_of[0], NULL, 0, NULL) == POCKETBERT_ERROR_ARGUMENT);
    free(whole.ids), free(whole.segments), free(whole.texts), free(whole.begins), free(whole.ends), free(whole.words),
        free(tokens);
    free(text), free(pair);
}

/* The best come first, and are labels or pieces that there are. */
static void check_labels(const pocketbert_label *labels, int32_t count, int32_t known)
{
    for (int32_t i = 0; i < count; i++) {
        CHECK(labels[i].label >= -1 && labels[i].label < known);
        CHECK(i == 0 || labels[i].score <= labels[i - 1].score);
    }
}

/* Options that are right, but for one in eight. */
static pocketbert_task_options task_options(const int32_t *labels, int *right)
{
    pocketbert_task_options options = {.size = sizeof options};
    options.long_text = (int32_t)(number(1) % 3);
    options.max_tokens = one_in(2) ? 0 : 5 + (int32_t)(number(1) % (uint64_t)(model.text_tokens - 4));
    options.stride = (int32_t)(number(1) % 4) - 1;
    options.longest = (int32_t)(number(1) % 20);
    options.no_answer = one_in(2);
    options.threshold = one_in(2) ? 0 : (float)number(1) / 255;
    options.allow = one_in(4) && model.labels ? labels : NULL;
    options.allow_count = options.allow ? (int32_t)(number(1) % 3) : 0;
    options.deny = labels;
    options.deny_count = model.labels ? (int32_t)(number(1) % 3) : 0;
    *right = 1;
    if (one_in(8)) {
        const uint64_t what = number(1) % 6;
        *right = 0;
        if (what == 0)
            /* Between these are a later version's, of which so many bytes would have to exist. */
            options.size = one_in(2) ? number(1) % sizeof options : 257 + number(1);
        else if (what == 1)
            options.long_text = 3 + (int32_t)number(1);
        else if (what == 2)
            options.max_tokens = model.text_tokens + 1 + (int32_t)number(2);
        else if (what == 3)
            options.stride = model.tokens;
        else if (what == 4)
            options.longest = -1 - (int32_t)number(1);
        else
            options.deny_count = -1;
    }
    return options;
}

static int is_refusal(int32_t status)
{
    return status == POCKETBERT_ERROR_LONG || status == POCKETBERT_ERROR_ARGUMENT || status == POCKETBERT_ERROR_SHAPE;
}

static void check_vector(const float *vector)
{
    int8_t *bytes_of = malloc((size_t)model.vector);
    uint8_t *bits = malloc(((size_t)model.vector + 7) / 8);
    CHECK(bytes_of && bits && model.vector > 0);
    CHECK(api->convert(vector, model.vector, POCKETBERT_INT8, bytes_of) == POCKETBERT_OK);
    CHECK(api->convert(vector, model.vector, POCKETBERT_BITS, bits) == POCKETBERT_OK);
    CHECK(api->convert(vector, model.vector, (int32_t)number(1) + 7, bits) == POCKETBERT_ERROR_ARGUMENT);
    CHECK(api->cosine(vector, vector, model.vector, POCKETBERT_FLOAT32) > 0.999f);
    CHECK(api->cosine(bytes_of, bytes_of, model.vector, POCKETBERT_INT8) > 0.999f);
    CHECK(api->cosine(bits, bits, model.vector, POCKETBERT_BITS) > 0.999f);
    free(bytes_of), free(bits);
}

/* A task of the model's, or of another's, for one text or for some. */
static void ask(pocketbert_model *handle, int valid)
{
    static const int32_t labels[] = {0, 0, 0};
    const int32_t task = 1 + (int32_t)number(1) % POCKETBERT_ANSWER;
    const int32_t asked = one_in(4) ? task : model.task;
    const int32_t room = (int32_t)(number(1) % 40) - 1, each = (int32_t)(number(1) % 4);
    int right;
    const pocketbert_task_options options = task_options(labels, &right), *given = one_in(4) ? NULL : &options;
    size_t size, pair_size;
    const int paired = one_in(3), many = one_in(3);
    char *text = take_text(&size), *pair = take_text(&pair_size);
    enum { TEXTS = 3 };
    pocketbert_text texts[TEXTS];
    for (int i = 0; i < TEXTS; i++)
        texts[i] =
            (pocketbert_text){text, i == 1 ? size / 2 : size, paired && i ? pair : NULL, paired && i ? pair_size : 0};
    const int32_t count_of_all = (int32_t)(number(1) % (TEXTS + 1));
    const size_t wanted = many ? TEXTS * (size_t)(room > 0 ? room : 1) : (size_t)(room > 0 ? room : 1);
    void *to = malloc(wanted * sizeof(pocketbert_entity));
    int32_t count = -1, overflow[TEXTS] = {-1, -1, -1}, *cut = one_in(4) ? NULL : overflow, status = -1;
    CHECK(to);
    int fits = room > 0;
    if (asked == POCKETBERT_CLASSIFY && many) {
        status = api->classify_all(handle, texts, count_of_all, given, to, room, cut);
        for (int32_t i = 0; status == POCKETBERT_OK && i < count_of_all * room; i++)
            CHECK(((const pocketbert_label *)to)[i].label < model.labels);
    } else if (asked == POCKETBERT_CLASSIFY) {
        status = api->classify(handle, text, size, paired ? pair : NULL, paired ? pair_size : 0, given, to, room,
                               &count, cut);
        if (status == POCKETBERT_OK)
            check_labels(to, count, model.labels);
    } else if (asked == POCKETBERT_ENTITIES) {
        status = api->entities(handle, text, size, given, to, room, &count, cut);
        const pocketbert_entity *entity = to;
        for (int32_t i = 0; status == POCKETBERT_OK && i < count && i < room; i++)
            CHECK(entity[i].name && entity[i].begin < entity[i].end && (size_t)entity[i].end <= size);
    } else if (asked == POCKETBERT_FILL) {
        status = api->fill(handle, text, size, given, to, each, room, &count, cut);
        fits = each > 0 && room >= each;
        for (int32_t i = 0; status == POCKETBERT_OK && i < count && i < room / each; i++)
            check_labels((const pocketbert_label *)to + i * each, each, model.pieces);
    } else if (asked == POCKETBERT_EMBED && many) {
        status = api->embed_all(handle, texts, count_of_all, given, to, room, cut);
        fits = room == model.vector;
        for (int i = 0; i < count_of_all; i++)
            fits = fits && !texts[i].pair;
    } else if (asked == POCKETBERT_EMBED) {
        status = api->embed(handle, text, size, given, to, room, cut);
        fits = room >= model.vector;
        if (status == POCKETBERT_OK)
            check_vector(to);
    } else if (asked == POCKETBERT_ANSWER) {
        status = api->answer(handle, text, size, pair, pair_size, given, to, room, &count);
        const pocketbert_answer *answer = to;
        for (int32_t i = 0; status == POCKETBERT_OK && i < count; i++)
            CHECK(i < room && answer[i].begin >= 0 && answer[i].begin <= answer[i].end &&
                  (size_t)answer[i].end <= pair_size && (i == 0 || answer[i].score <= answer[i - 1].score));
    }
    if (asked) {
        check_status(status, handle);
        const int may = valid && asked == model.task && fits && (!given || right);
        CHECK(may ? status == POCKETBERT_OK || is_refusal(status) : status != POCKETBERT_OK);
        CHECK(!may || given || asked == POCKETBERT_ANSWER || status == POCKETBERT_OK ||
              status == POCKETBERT_ERROR_LONG);
        CHECK(!valid || asked == model.task || status == POCKETBERT_ERROR_TASK);
    }
    free(text), free(pair), free(to);
}

static void describe(void)
{
    const size_t size = number(1);
    pocketbert_description *description = malloc(size < sizeof description->size ? sizeof description->size : size);
    CHECK(description);
    description->size = size;
    api->describe(description);
    api->describe(NULL);
    free(description);
}

static void profile(pocketbert_model *handle)
{
    const pocketbert_record *records = NULL;
    int32_t count = -1;
    const int32_t status = api->profile(handle, &records, &count);
    check_status(status, handle);
    for (int32_t i = 0; status == POCKETBERT_OK && i < count; i++)
        CHECK(records[i].call >= -1 && records[i].end_ns >= records[i].start_ns);
    CHECK(api->profile(handle, NULL, NULL) == POCKETBERT_ERROR_ARGUMENT);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!api) {
        api = JOIN(MODEL, _functions)();
        model.size = sizeof model;
        api->describe(&model);
        CHECK(api->abi_version == POCKETBERT_ABI);
        CHECK(model.input_count <= MAX_TENSORS && model.output_count <= MAX_TENSORS);
    }
    pocketbert_model *open[MODELS] = {NULL}, *closed[MODELS] = {NULL};
    bytes = data;
    end = data + size;
    for (int step = 0; step < STEPS && bytes < end; step++) {
        const uint64_t what = number(1) % 10, which = number(1) % MODELS;
        int valid;
        pocketbert_model *handle = any_handle(open, closed, &valid);
        if (what == 0 && !open[which])
            open_model(&open[which]);
        else if (what == 1) {
            closed[which] = open[which];
            open[which] = NULL;
            api->close(closed[which]);
            api->close(closed[which]);
            api->close(handle == open[0] || handle == open[1] || handle == open[2] || handle == open[3] ? NULL
                                                                                                        : handle);
        } else if (what <= 3)
            run(handle, valid);
        else if (what == 4)
            tokenize();
        else if (what == 5)
            run_text(handle, valid);
        else if (what == 6)
            describe();
        else if (what == 7)
            encode();
        else if (what == 8)
            ask(handle, valid);
        else if (one_in(2))
            profile(handle);
        else {
            const int32_t id = (int32_t)number(4);
            const char *piece = api->token(id);
            CHECK((piece != NULL) == (id >= 0 && id < model.pieces) && (!piece || strlen(piece) < 1000));
            CHECK((api->label(id) != NULL) == (id >= 0 && id < model.labels));
        }
    }
    for (int i = 0; i < MODELS; i++)
        api->close(open[i]);
    return 0;
}
