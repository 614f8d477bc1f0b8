/* What tasks share: a text that is read once, and the model run on one window of it after another. */
#ifndef PB_TASKS_H
#define PB_TASKS_H

#include "model.h"
#include "text.h"

typedef struct {
    pb_slot *slot; /* NULL in a lane */
    pb_model *model;
    pocketbert_task_options options; /* with what the defaults stand for */
    pb_reading reading;
    pocketbert_tokens tokens; /* of the window, all arrays but segments */
    pocketbert_tensor outputs[PB_MOST_OUTPUTS];
    bool more;      /* whether there is another window after it, */
    int32_t next;   /* how many tokens of the last text come before that, */
    int32_t stride; /* and how many the two share */
    float *vector;  /* of labels, or of what `embed` gives */
    bool *asked;    /* of each token: whether `fill` wants its row */
    char *memory;
    size_t bytes;
} pb_pass;

/* Memory for any number of texts. pb_close_pass must follow, also on failure. */
int32_t pb_open_pass(pb_model *model, const pocketbert_task_options *options, pb_pass *pass);
void pb_close_pass(pb_pass *pass);

/* A call of a task: the model for the caller alone, its options and a pass that is open. `complete`: whether the caller gave
 * all that is to be filled. pb_end_task, which returns the status, must follow, also on failure. */
int32_t pb_begin_task(pocketbert_model *handle, int32_t task, bool complete, const pocketbert_task_options *options,
                      pb_pass *pass);
int32_t pb_end_task(pb_pass *pass, int32_t status);

/* Read a text, or a pair: tokens.count is what its first window has. *overflow, if it is there, receives how many tokens are more than are read at once. */
int32_t pb_begin_text(pb_pass *pass, const char *text, size_t text_bytes, const char *pair, size_t pair_bytes,
                      int32_t *overflow);

/* The tokens of the next window, of which there is one at least; and the model's outputs for them. */
int32_t pb_next_tokens(pb_pass *pass);
int32_t pb_run_window(pb_pass *pass);
int32_t pb_next_window(pb_pass *pass);

/* Logits to probabilities, in place, for PB_SOFTMAX, PB_SIGMOID or neither. */
void pb_activate(float *values, int32_t count, int32_t activation);

/* What the task's output says of one text, of its `tokens` rows or of the one that it has: its labels, of which it returns
 * how many there are, or its vector. */
int32_t pb_take_labels(const pocketbert_task_options *options, float *logits, pocketbert_label *labels, int32_t room);
void pb_take_vector(const float *output, int32_t tokens, float *vector);

/* A text's labels or vector, from a pass that is open. */
int32_t pb_classify_text(pb_pass *pass, const pocketbert_text *text, pocketbert_label *labels, int32_t room,
                         int32_t *count, int32_t *overflow);
int32_t pb_embed_text(pb_pass *pass, const pocketbert_text *text, float *vector, int32_t *overflow);

#endif
