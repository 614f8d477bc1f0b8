/* Between the generated plan and the runtime. Nothing here is public. */
#ifndef PB_RUNTIME_H
#define PB_RUNTIME_H

#include "config.h"
#include "api.h"
#include "cpu_features.h"
#include "platform.h"

/* The rows of one of the sequences that a run computes side by side: a token each. */
typedef struct {
    int32_t first, tokens;
} pb_sequence;

/* What a stage function needs to find its operands. */
typedef struct {
    char *arena;
    const pocketbert_tensor *inputs;
    const pocketbert_tensor *outputs;
    const struct pb_kernels *kernels; /* of the level that this CPU runs */
    const pb_sequence *sequences;     /* of this run, in the order of their rows */
    int32_t sequence_count;
    int32_t tokens;          /* rows of all of them */
    int32_t block_rows;      /* rows in a thread's block */
    size_t workspace_offset; /* of the workspace within a thread's scratch */
} pb_context;

/* Where a profiled run of one block keeps when its calls ended; `records` has room for each call of the plan. */
typedef struct {
    pocketbert_record *records;
    int32_t thread;
    int64_t time; /* when the last call ended, ns */
} pb_log;

/* What a block of rows has of one sequence, `first` and `tokens` being all of that. */
typedef struct {
    int32_t index, first, tokens, row, rows;
} pb_part;

/* The first part from sequence `index` on; without rows where there is none. */
static inline pb_part pb_part_from(const pb_context *context, int32_t row, int32_t rows, int32_t index)
{
    for (; index < context->sequence_count; index++) {
        const pb_sequence of = context->sequences[index];
        const int32_t begin = row > of.first ? row : of.first;
        const int32_t end = row + rows < of.first + of.tokens ? row + rows : of.first + of.tokens;
        if (begin < end)
            return (pb_part){index, of.first, of.tokens, begin, end - begin};
    }
    return (pb_part){.rows = 0};
}

/* For calls to which it matters where a sequence begins. */
#define EACH_PART                                                                                                      \
    for (pb_part part = pb_part_from(context, row, rows, 0); part.rows;                                                \
         part = pb_part_from(context, row, rows, part.index + 1))

/* `row` and `rows`: the block; of serial calls, which are made for each sequence, all its rows. */
typedef void (*pb_stage_function)(const pb_context *context, char *scratch, int32_t row, int32_t rows, pb_log *log);

/* Between two barriers: `serial` runs once on one thread, `rows` on every block of rows. Either may be NULL. */
typedef struct {
    pb_stage_function serial;
    pb_stage_function rows;
} pb_stage;

/* The functions that compute the plan's calls on CPUs that have all of `features`, PB_CPU_*. */
typedef struct {
    uint32_t features;
    const char *cpu;
    const struct pb_kernels *kernels;
} pb_level;

typedef struct {
    const pb_level *levels; /* lowest first */
    int32_t level_count;
    const pb_stage *stages;
    const pb_stage *profiled_stages; /* the same calls, each followed by pb_log_call */
    int32_t stage_count;
    int32_t call_count;
    const pocketbert_info *inputs;
    int32_t input_count;
    const pocketbert_info *outputs;
    int32_t output_count;
    const int32_t *output_stages; /* of each output: the stage that computes its rows, the last that it needs; or -1 */
    int32_t tokens;
    int32_t gap;   /* rows between sequences side by side; -1: there can be one alone */
    int32_t batch; /* sequences in the largest batch: dimension 0 of in- and outputs, where it is more than 1 */
    size_t arena_bytes;
    size_t scratch_row_bytes;
    size_t workspace_bytes;
    size_t weight_bytes;
    int32_t default_threads;
} pb_plan;

extern const pb_plan pb_the_plan;
extern const char pb_weights[];

#define ARENA(offset) (context->arena + (offset))
#define SCRATCH(offset) (scratch + (size_t)(offset) * (size_t)context->block_rows)
#define WORKSPACE(scratch) ((scratch) + context->workspace_offset)
#define INPUT(index) ((char *)context->inputs[index].data)
#define OUTPUT(index) ((char *)context->outputs[index].data)
/* Kernels never write to weights; their arguments are all `void *` so that one prototype form serves every kernel. */
#define WEIGHT(offset) ((char *)(uintptr_t)pb_weights + (offset))

typedef struct pb_model pb_model;

/* handles.c: what a caller holds of an open model, and how many calls are using it. create returns NULL if too many are
 * open; enter returns POCKETBERT_ERROR_ARGUMENT, and close NULL, for a handle that is NULL, closed or of another library.
 * Between enter and leave the model stays: close waits. A model that was opened before fork() is *inherited by the child
 * process, where nobody can enter it. */
typedef struct pb_slot pb_slot;

pocketbert_model *pb_handle_create(pb_model *model);
int32_t pb_handle_enter(const pocketbert_model *handle, pb_slot **entered);
pb_model *pb_handle_model(const pb_slot *slot);
void pb_handle_leave(pb_slot *slot);
pb_model *pb_handle_close(pocketbert_model *handle, bool *inherited);

/* tokenizer.c, and what is generated for it: what each input of the model takes of a text, and the pieces' names. */
enum { PB_TEXT_IDS, PB_TEXT_MASK, PB_TEXT_SEGMENTS };

extern const uint32_t pb_piece_offsets[]; /* UINT32_MAX: an id without a piece */
extern const char pb_piece_text[];

/* How many special pieces stand around one text or two; `encode` needs room for one more. */
int32_t pb_template_size(bool pair);
const char *pb_piece(int32_t id);

/* tasks.c and answer.c, and the names of the labels. */
enum { PB_SOFTMAX, PB_SIGMOID, PB_NO_ACTIVATION };
enum { PB_POOL_MEAN, PB_POOL_CLS, PB_POOL_MAX, PB_POOL_LAST };

extern const uint32_t pb_label_offsets[];
extern const char pb_label_text[];
extern const char pb_facts[]; /* JSON */

int32_t pb_vector_size(void);

/* cpu.c: PB_CPU_*, as many as this CPU has; and what to say where it has not all that are needed. */
uint32_t pb_cpu_features(void);
const char *pb_cpu_lacks(uint32_t missing);

/* The cores that threads should use, of the mask `allowed` or, if it is 0, of those that the caller may use. Of
 * a CPU with big and little ones the big: those with more than half of the biggest's capacity. */
typedef struct {
    int32_t count;
    uint64_t big; /* mask of the big ones; 0 if all are taken */
    bool unequal; /* whether some of those that may be used are faster than others */
} pb_cores;

pb_cores pb_find_cores(uint64_t allowed);

/* profile.c */
void pb_log_call(pb_log *log, int32_t call);

/* threads.c: workers that run one function together, and a barrier among them. */
typedef struct pb_pool pb_pool;
typedef void (*pb_task)(void *argument, int32_t thread);

/* Returns NULL if memory or threads are short. `threads` counts the caller of pb_pool_run. */
pb_pool *pb_pool_create(int32_t threads);
void pb_pool_run(pb_pool *pool, pb_task task, void *argument);
void pb_pool_barrier(pb_pool *pool);
/* inherited: the threads are another process's, and there is no one to wait for. */
void pb_pool_destroy(pb_pool *pool, bool inherited);

#endif
