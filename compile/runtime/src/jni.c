/* The native methods of com.pocketbert.Native, which a library registers when a Java virtual machine loads it.
 *
 * They are the same in every library and take the address of a table of functions, of which each library publishes its
 * own. So it does not matter whose methods were registered last, and any number of models can be loaded.
 */
#include "java.h"
#include "runtime.h"

/* Libraries of different builds may come together in one process, and then their methods must be the same: raise this,
 * and ABI in Native.java, whenever these methods or what they read changes. */
enum { JAVA_ABI = 5 };
_Static_assert(sizeof(pocketbert_functions) == 22 * sizeof(void *), "the table has grown: raise JAVA_ABI");
_Static_assert(sizeof(pocketbert_label) == 8 && sizeof(pocketbert_entity) <= 32, "Model.java reads them");
_Static_assert(sizeof(pocketbert_answer) == 24 && sizeof(pocketbert_text) <= 32, "and these");
_Static_assert(sizeof(pocketbert_tensor) == 48, "TENSOR_BYTES in Native.java");

static const pocketbert_functions *table(int64_t address)
{
    return (const pocketbert_functions *)(uintptr_t)address;
}

static pocketbert_model *handle(int64_t address)
{
    return (pocketbert_model *)(uintptr_t)address;
}

static pocketbert_description describe(int64_t functions)
{
    pocketbert_description description = {.size = sizeof description};
    table(functions)->describe(&description);
    return description;
}

/* Java has UTF-8 as bytes: the strings that JNI makes are of another encoding. */
static pb_object bytes(pb_env *env, const char *text)
{
    int64_t length = 0;
    while (text[length])
        length++;
    return (*env)->NewDirectByteBuffer(env, (void *)(uintptr_t)text, length);
}

static int32_t java_tokens(pb_env *env, pb_object class, int64_t functions)
{
    (void)env, (void)class;
    return describe(functions).tokens;
}

static int32_t java_pieces(pb_env *env, pb_object class, int64_t functions)
{
    (void)env, (void)class;
    return describe(functions).pieces;
}

static pb_object java_token(pb_env *env, pb_object class, int64_t functions, int32_t id)
{
    (void)class;
    const char *piece = table(functions)->token(id);
    return piece ? bytes(env, piece) : NULL;
}

static pb_object java_tensor(pb_env *env, pb_object class, int64_t functions, uint8_t output, int32_t index,
                             pb_object facts)
{
    (void)class;
    const pocketbert_description model = describe(functions);
    if (index >= (output ? model.output_count : model.input_count))
        return NULL;
    const pocketbert_info *info = &(output ? model.outputs : model.inputs)[index];
    const int64_t values[] = {info->type,     info->rank,       info->shape[0], info->shape[1], info->shape[2],
                              info->shape[3], info->token_axis, info->low,      info->high};
    (*env)->SetLongArrayRegion(env, facts, 0, sizeof values / sizeof *values, values);
    return bytes(env, info->name);
}

/* cancel: an int of Java's, which keeps it until the model is closed. */
static int32_t java_open(pb_env *env, pb_object class, int64_t functions, int32_t threads, int64_t cores,
                         pb_object cancel, pb_object opened)
{
    (void)class;
    const pocketbert_options options = {.size = sizeof options,
                                        .threads = threads,
                                        .cores = (uint64_t)cores,
                                        .cancel = (*env)->GetDirectBufferAddress(env, cancel)};
    pocketbert_model *model;
    const int32_t status = table(functions)->open(&options, &model);
    const int64_t address = (int64_t)(uintptr_t)model;
    (*env)->SetLongArrayRegion(env, opened, 0, 1, &address);
    return status;
}

/* The buffers' addresses and the shapes for a sequence of `tokens`. The array keeps the buffers alive meanwhile. */
static void fill(pb_env *env, pocketbert_tensor *tensors, const pocketbert_info *infos, int32_t count, int32_t tokens,
                 pb_object buffers, int32_t first)
{
    for (int32_t i = 0; i < count; i++) {
        const pocketbert_info *info = &infos[i];
        const pb_object buffer = (*env)->GetObjectArrayElement(env, buffers, first + i);
        pocketbert_tensor *tensor = &tensors[first + i];
        tensor->data = (*env)->GetDirectBufferAddress(env, buffer);
        (*env)->DeleteLocalRef(env, buffer);
        tensor->type = info->type;
        tensor->rank = info->rank;
        for (int32_t axis = 0; axis < info->rank; axis++)
            tensor->shape[axis] = axis == info->token_axis ? tokens : info->shape[axis];
    }
}

static int32_t java_run(pb_env *env, pb_object class, int64_t functions, int64_t model, int32_t tokens,
                        pb_object buffers, pb_object memory)
{
    (void)class;
    const pocketbert_description facts = describe(functions);
    pocketbert_tensor *tensors = (*env)->GetDirectBufferAddress(env, memory);
    fill(env, tensors, facts.inputs, facts.input_count, tokens, buffers, 0);
    fill(env, tensors, facts.outputs, facts.output_count, tokens, buffers, facts.input_count);
    return table(functions)->run(handle(model), tensors, facts.input_count, tensors + facts.input_count,
                                 facts.output_count);
}

/* Without a pair, `pair` is null. */
static const char *address_of(pb_env *env, pb_object text)
{
    return text ? (*env)->GetDirectBufferAddress(env, text) : NULL;
}

static int32_t java_tokenize(pb_env *env, pb_object class, int64_t functions, pb_object text, int32_t text_bytes,
                             pb_object pair, int32_t pair_bytes, int32_t max_tokens, pb_object ids, pb_object segments)
{
    (void)class;
    int32_t count;
    const int32_t status = table(functions)->tokenize(
        address_of(env, text), (size_t)text_bytes, address_of(env, pair), (size_t)pair_bytes, max_tokens,
        (*env)->GetDirectBufferAddress(env, ids), (*env)->GetDirectBufferAddress(env, segments), &count);
    return status == POCKETBERT_OK ? count : -status;
}

static int32_t java_run_text(pb_env *env, pb_object class, int64_t functions, int64_t model, pb_object text,
                             int32_t text_bytes, pb_object pair, int32_t pair_bytes, pb_object outputs,
                             pb_object memory)
{
    (void)class;
    const pocketbert_description facts = describe(functions);
    pocketbert_tensor *tensors = (*env)->GetDirectBufferAddress(env, memory);
    fill(env, tensors, facts.outputs, facts.output_count, facts.tokens, outputs, 0);
    int32_t tokens;
    const int32_t status =
        table(functions)->run_text(handle(model), address_of(env, text), (size_t)text_bytes, address_of(env, pair),
                                   (size_t)pair_bytes, tensors, facts.output_count, &tokens);
    return status == POCKETBERT_OK ? tokens : -status;
}

/* encode: `memory` has begins, ends, ids and segments of max_tokens longs each, then words of as many ints, and as many
 * bytes for texts. Returns the overflow << 32 | count, or as a negative number the overflow << 32 | status; so does a task. */
static int64_t result(int32_t status, int32_t overflow, int32_t count)
{
    const int64_t over = (int64_t)overflow << 32;
    return status == POCKETBERT_OK ? over | count : -(over | status);
}

static int64_t java_encode(pb_env *env, pb_object class, int64_t functions, pb_object text, int32_t text_bytes,
                           pb_object pair, int32_t pair_bytes, int32_t max_tokens, uint8_t windows, int32_t skip,
                           pb_object memory)
{
    (void)class;
    int64_t *longs = (*env)->GetDirectBufferAddress(env, memory);
    pocketbert_tokens tokens = {
        .size = sizeof tokens, .max_tokens = max_tokens, .windows = windows, .skip = skip, .begins = longs};
    if (max_tokens > 0) {
        tokens.ends = longs + max_tokens;
        tokens.ids = longs + 2 * (size_t)max_tokens;
        tokens.segments = longs + 3 * (size_t)max_tokens;
        tokens.words = (int32_t *)(longs + 4 * (size_t)max_tokens);
        tokens.texts = (int8_t *)(tokens.words + max_tokens);
    }
    const int32_t status = table(functions)->encode(address_of(env, text), (size_t)text_bytes, address_of(env, pair),
                                                    (size_t)pair_bytes, &tokens);
    return result(status, status == POCKETBERT_OK ? tokens.overflow : 0, tokens.count);
}

/* Entities as Java reads them whatever the size of a pointer: name, score, begin and end, 8 bytes each. */
static void widen(void *memory, int32_t count)
{
    for (int32_t i = sizeof(void *) == 8 ? 0 : count; i-- > 0;) {
        pocketbert_entity entity;
        memcpy(&entity, (char *)memory + (size_t)i * sizeof entity, sizeof entity);
        int64_t wide[] = {(int64_t)(uintptr_t)entity.name, 0, entity.begin, entity.end};
        memcpy(&wide[1], &entity.score, sizeof entity.score);
        memcpy((char *)memory + (size_t)i * sizeof wide, wide, sizeof wide);
    }
}

/* Of ints: the members up to the threshold (its bits), how many labels are allowed (-1: all) and denied, and those. */
static pocketbert_task_options task_options(pb_env *env, pb_object given)
{
    const int32_t *ints = (*env)->GetDirectBufferAddress(env, given);
    pocketbert_task_options options = {.size = sizeof options,
                                       .long_text = ints[0],
                                       .max_tokens = ints[1],
                                       .stride = ints[2],
                                       .longest = ints[3],
                                       .no_answer = ints[4],
                                       .deny_count = ints[7]};
    memcpy(&options.threshold, &ints[5], sizeof options.threshold);
    options.allow_count = ints[6] < 0 ? 0 : ints[6];
    options.allow = ints[6] < 0 ? NULL : ints + 8;
    options.deny = ints + 8 + options.allow_count;
    return options;
}

/* What the task of this number gives goes to `memory`: labels, a vector, entities, answers, or for each mask `each` pieces. */
static int64_t java_task(pb_env *env, pb_object class, int64_t functions, int64_t model, int32_t task, pb_object text,
                         int32_t text_bytes, pb_object pair, int32_t pair_bytes, pb_object settings, pb_object memory,
                         int32_t room, int32_t each)
{
    (void)class;
    const pocketbert_functions *f = table(functions);
    const pocketbert_task_options options = task_options(env, settings);
    const char *first = address_of(env, text), *second = address_of(env, pair);
    const size_t bytes = (size_t)text_bytes;
    void *to = (*env)->GetDirectBufferAddress(env, memory);
    int32_t count = room, overflow = 0, status = POCKETBERT_ERROR_TASK;
    if (task == POCKETBERT_CLASSIFY)
        status =
            f->classify(handle(model), first, bytes, second, (size_t)pair_bytes, &options, to, room, &count, &overflow);
    else if (task == POCKETBERT_EMBED)
        status = f->embed(handle(model), first, bytes, &options, to, room, &overflow);
    else if (task == POCKETBERT_ENTITIES) {
        status = f->entities(handle(model), first, bytes, &options, to, room, &count, &overflow);
        if (status == POCKETBERT_OK)
            widen(to, count < room ? count : room);
    } else if (task == POCKETBERT_FILL)
        status = f->fill(handle(model), first, bytes, &options, to, each, room, &count, &overflow);
    else if (task == POCKETBERT_ANSWER)
        status = f->answer(handle(model), first, bytes, second, (size_t)pair_bytes, &options, to, room, &count);
    return result(status, overflow, count);
}

/* The same for many texts. `texts` has all of them, one after the other, and their pairs; `sizes` the bytes of each text
 * and of its pair, -1 where there is none; `views` 32 bytes a text, and `overflows` an int. */
static int64_t java_tasks(pb_env *env, pb_object class, int64_t functions, int64_t model, int32_t task, pb_object texts,
                          pb_object sizes, int32_t count, pb_object views, pb_object settings, pb_object memory,
                          int32_t each, pb_object overflows)
{
    (void)class;
    const pocketbert_functions *f = table(functions);
    const pocketbert_task_options options = task_options(env, settings);
    const char *at = address_of(env, texts);
    const int32_t *bytes = (*env)->GetDirectBufferAddress(env, sizes);
    pocketbert_text *view = (*env)->GetDirectBufferAddress(env, views);
    int32_t *over = (*env)->GetDirectBufferAddress(env, overflows), most = 0;
    void *to = (*env)->GetDirectBufferAddress(env, memory);
    for (int32_t i = 0; i < count; i++) {
        view[i] = (pocketbert_text){.text = at, .text_bytes = (size_t)bytes[2 * i]};
        at += bytes[2 * i];
        if (bytes[2 * i + 1] >= 0) {
            view[i].pair = at;
            view[i].pair_bytes = (size_t)bytes[2 * i + 1];
            at += bytes[2 * i + 1];
        }
        over[i] = 0;
    }
    const int32_t status = task == POCKETBERT_CLASSIFY
                               ? f->classify_all(handle(model), view, count, &options, to, each, over)
                               : f->embed_all(handle(model), view, count, &options, to, each, over);
    for (int32_t i = 0; i < count; i++)
        most = over[i] > most ? over[i] : most;
    return result(status, most, count);
}

static int32_t java_convert(pb_env *env, pb_object class, int64_t functions, pb_object vector, int32_t size,
                            int32_t type, pb_object converted)
{
    (void)class;
    return table(functions)->convert((*env)->GetDirectBufferAddress(env, vector), size, type,
                                     (*env)->GetDirectBufferAddress(env, converted));
}

static float java_cosine(pb_env *env, pb_object class, int64_t functions, pb_object a, pb_object b, int32_t size,
                         int32_t type)
{
    (void)class;
    return table(functions)->cosine((*env)->GetDirectBufferAddress(env, a), (*env)->GetDirectBufferAddress(env, b),
                                    size, type);
}

static pb_object java_label(pb_env *env, pb_object class, int64_t functions, int32_t number)
{
    (void)class;
    const char *label = table(functions)->label(number);
    return label ? bytes(env, label) : NULL;
}

/* The text that begins at an address, as an entity's name does. */
static pb_object java_text(pb_env *env, pb_object class, int64_t address)
{
    (void)class;
    return bytes(env, (const char *)(uintptr_t)address);
}

/* Of the description: its task, how many labels there are, a vector's size, the tokens of the longest text, the address
 * of its JSON. */
static void java_facts(pb_env *env, pb_object class, int64_t functions, pb_object facts)
{
    (void)class;
    const pocketbert_description model = describe(functions);
    const int64_t values[] = {model.task, model.labels, model.vector, model.text_tokens,
                              (int64_t)(uintptr_t)model.facts};
    (*env)->SetLongArrayRegion(env, facts, 0, sizeof values / sizeof *values, values);
}

static void java_close(pb_env *env, pb_object class, int64_t functions, int64_t model)
{
    (void)env, (void)class;
    table(functions)->close(handle(model));
}

static pb_object java_error(pb_env *env, pb_object class, int64_t functions, int64_t model)
{
    (void)class;
    return bytes(env, table(functions)->last_error(handle(model)));
}

#define BUFFER "Ljava/nio/ByteBuffer;"
#define TEXTS "Ljava/nio/ByteBuffer;ILjava/nio/ByteBuffer;I"

static const pb_jni_method methods[] = {
    {"tokens", "(J)I", (void *)java_tokens},
    {"tensor", "(JZI[J)Ljava/nio/ByteBuffer;", (void *)java_tensor},
    {"open", "(JIJ" BUFFER "[J)I", (void *)java_open},
    {"run", "(JJI[Ljava/nio/ByteBuffer;Ljava/nio/ByteBuffer;)I", (void *)java_run},
    {"pieces", "(J)I", (void *)java_pieces},
    {"token", "(JI)Ljava/nio/ByteBuffer;", (void *)java_token},
    {"tokenize", "(J" TEXTS "ILjava/nio/ByteBuffer;Ljava/nio/ByteBuffer;)I", (void *)java_tokenize},
    {"runText", "(JJ" TEXTS "[Ljava/nio/ByteBuffer;Ljava/nio/ByteBuffer;)I", (void *)java_run_text},
    {"encode", "(J" TEXTS "IZILjava/nio/ByteBuffer;)J", (void *)java_encode},
    {"task", "(JJI" TEXTS "Ljava/nio/ByteBuffer;Ljava/nio/ByteBuffer;II)J", (void *)java_task},
    {"tasks", "(JJI" BUFFER BUFFER "I" BUFFER BUFFER BUFFER "I" BUFFER ")J", (void *)java_tasks},
    {"convert", "(J" BUFFER "II" BUFFER ")I", (void *)java_convert},
    {"cosine", "(J" BUFFER BUFFER "II)F", (void *)java_cosine},
    {"label", "(JI)Ljava/nio/ByteBuffer;", (void *)java_label},
    {"text", "(J)Ljava/nio/ByteBuffer;", (void *)java_text},
    {"facts", "(J[J)V", (void *)java_facts},
    {"close", "(JJ)V", (void *)java_close},
    {"error", "(JJ)Ljava/nio/ByteBuffer;", (void *)java_error},
};

#define TEXT(name) #name
#define TEXT_OF(name) TEXT(name)

static void publish(pb_env *env)
{
    const pb_object class = (*env)->FindClass(env, "com/pocketbert/Native");
    if (!class)
        return;
    void *method = (*env)->GetStaticMethodID(env, class, "publish", "(Ljava/lang/String;JI)Z");
    const pb_object prefix = method ? (*env)->NewStringUTF(env, TEXT_OF(PB())) : NULL;
    if (!prefix)
        return;
    const pb_jvalue arguments[] = {{.l = prefix}, {.j = (int64_t)(uintptr_t)PB(functions)()}, {.i = JAVA_ABI}};
    const uint8_t welcome = (*env)->CallStaticBooleanMethodA(env, class, method, arguments);
    if (!(*env)->ExceptionCheck(env) && welcome)
        (*env)->RegisterNatives(env, class, methods, sizeof methods / sizeof *methods);
}

/* The one symbol without the model's name. An application may load the library without our classes, for the use of its
 * own native code: then nothing is registered. */
PB_PUBLIC int32_t JNI_OnLoad(pb_vm *vm, void *reserved);
PB_PUBLIC int32_t JNI_OnLoad(pb_vm *vm, void *reserved)
{
    (void)reserved;
    pb_env *env;
    if ((*vm)->GetEnv(vm, (void **)&env, PB_JNI_VERSION) != PB_JNI_OK)
        return PB_JNI_ERROR;
    publish(env);
    (*env)->ExceptionClear(env);
    return PB_JNI_VERSION;
}
