/* An open model, between the sources that hold the public functions. */
#ifndef PB_MODEL_H
#define PB_MODEL_H

#include "runtime.h"

struct pb_model {
    _Atomic uint32_t busy;
    const char *_Atomic error; /* a caller that is refused as busy sets it beside one that runs */
    pb_pool *pool;
    char *memory; /* arena, then each thread's scratch, then the ids, mask and segments of a text */
    size_t memory_bytes;
    size_t thread_bytes;
    int64_t *text;
    int32_t threads;
    int32_t blocks;         /* of rows, in a run */
    int32_t sequences;      /* of this run */
    pocketbert_tensor *one; /* the in- and outputs of one of them */
    pb_context context;
    pb_sequence whole;         /* of a run of one sequence: all its rows */
    const pb_sequence *packed; /* of a run of several side by side, with how many; NULL of one */
    int32_t packed_count;
    const bool *asked;           /* of each token: whether its row of the task's output is wanted; NULL: all */
    pocketbert_record *records;  /* NULL without options.profile: the run, then each call of each block */
    pocketbert_record *snapshot; /* of them, which the caller of `profile` reads: no run writes to it */
    size_t records_bytes;        /* of each */
    int32_t record_count;
    pb_model **lanes; /* models of one thread for texts side by side, one a thread; NULL before they are wanted */
    const volatile int32_t *cancel; /* or NULL */
    _Atomic int32_t last_stage;     /* of a run that is being cancelled; else INT32_MAX */
    void (*log)(void *user, const char *message);
    void *user;
    size_t bytes;
    _Atomic int32_t next_block[]; /* one a stage */
};

static inline size_t pb_align(size_t size)
{
    return (size + PB_ALIGNMENT - 1) & ~(size_t)(PB_ALIGNMENT - 1);
}

/* api.c. What went wrong, for PB(last_error): of a model, or of none. Returns the status. */
int32_t pb_fail(pb_model *model, int32_t status, const char *message);

/* Of a handle that pb_handle_enter refuses with this status. */
const char *pb_handle_error(int32_t status);

/* A caller's struct that begins with its size: what an older caller does not know is 0, and what we do not know of a newer
 * one's must be 0. NULL is all 0. `least` is the size of its first version. */
bool pb_read_struct(const void *given, size_t least, void *read, size_t size);

/* open.c. The highest level that this CPU has all of, or NULL. */
const pb_level *pb_choose_level(void);

/* Rows are handed out in blocks, one a thread where all cores are equal: every block reads all weights. Where they are
 * not, a fast core takes more of smaller ones, so that all finish together. Blocks are whole tiles of four rows. */
int32_t pb_block_rows(const pb_model *model, int32_t tokens);

/* The model's lanes, so that each of its threads can run a text of its own; NULL, and the model's error, where there is no
 * memory. They are freed with the model. */
pb_model **pb_lanes(pb_model *model);

/* check.c. Sets how many sequences of how many tokens the run has, as the first input says. */
int32_t pb_check(pb_model *model, const pocketbert_tensor *inputs, int32_t input_count,
                 const pocketbert_tensor *outputs, int32_t output_count);

/* Of a tensor of `sequences` with `tokens` each. */
int64_t pb_dimension(const pocketbert_info *info, int32_t axis, int32_t tokens, int32_t sequences);

/* Behind the last byte of a tensor that has been checked. */
uintptr_t pb_end_of(const pocketbert_tensor *tensor);

/* run.c. Between them the caller has the model to itself. pb_end_run returns the status. */
int32_t pb_begin_run(const pocketbert_model *handle, pb_slot **slot);
int32_t pb_end_run(pb_slot *slot, int32_t status);
int32_t pb_run_model(pb_model *model, const pocketbert_tensor *inputs, int32_t input_count,
                     const pocketbert_tensor *outputs, int32_t output_count);

/* texts.c. Of the longest text: fewer than the model takes where it was made for fewer. */
int32_t pb_most_text_tokens(void);

/* Whether texts can be read into `max_tokens`; else a status. */
int32_t pb_check_text(pb_model *model, const char *text, size_t text_bytes, const char *pair, size_t pair_bytes,
                      int32_t max_tokens);

/* Where the model takes ids and segments from. */
pocketbert_tokens pb_own_tokens(pb_model *model);

/* Run on tokens that lie there, `sequence_count` sequences of them; afterwards they are no longer as they were. Types and
 * shapes of outputs are filled in; what has no token axis follows for each sequence. */
int32_t pb_run_tokens(pb_model *model, const pb_sequence *sequences, int32_t sequence_count, pocketbert_tensor *outputs,
                      int32_t output_count);

#endif
