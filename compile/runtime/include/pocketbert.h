/* What every compiled model shares: types, codes and the table of its functions. C11 or C++.
 *
 * A model's own header declares its functions, which begin with the model's name: models can live side by side.
 *
 * Versions: structs that begin with `size` grow at their end. Set it to sizeof of what you compiled with, and any library
 * with the same POCKETBERT_ABI understands you, older or newer. What cannot be done that way raises POCKETBERT_ABI.
 *
 * Threads: every function may be called from any thread at any time. A model runs one inference at a time; a second
 * caller gets POCKETBERT_ERROR_BUSY. Several models may be open and run at once, of one library or of several, and share
 * the weights. `close` waits for a run under way.
 *
 * Processes: the child of a fork() has none of the threads. It may close a model that it inherits, which frees the child's
 * copy of it and leaves the parent's alone; for anything else it gets POCKETBERT_ERROR_FORK, and opens its own models.
 */
#ifndef POCKETBERT_H
#define POCKETBERT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { POCKETBERT_ABI = 2 };

/* What the functions return. */
enum {
    POCKETBERT_OK = 0,
    POCKETBERT_ERROR_ARGUMENT = 1, /* a closed model, a null or misaligned pointer, a wrong count or option */
    POCKETBERT_ERROR_SHAPE = 2,    /* a tensor's type, rank or shape is not the model's */
    POCKETBERT_ERROR_RANGE = 3,    /* an id outside the vocabulary */
    POCKETBERT_ERROR_MEMORY = 4,
    POCKETBERT_ERROR_CPU = 5,        /* this CPU lacks instructions that the library needs */
    POCKETBERT_ERROR_THREAD = 6,     /* threads could not be created */
    POCKETBERT_ERROR_BUSY = 7,       /* another thread is running this model */
    POCKETBERT_ERROR_LIBRARY = 8,    /* pocketbert_loader.h: not a library that this machine can load */
    POCKETBERT_ERROR_VOCABULARY = 9, /* the library was built without a tokenizer: it takes ids, not text */
    POCKETBERT_ERROR_TASK = 11,      /* the model is for something else than what it is asked */
    POCKETBERT_ERROR_FORK = 10, /* the model was opened before fork(), by the parent of this process: open another */
    POCKETBERT_ERROR_LONG = 12, /* a text has more tokens than are read at once, and nobody said what to do with them */
    POCKETBERT_ERROR_CANCELLED = 13 /* options->cancel was set */
};

/* Element types. */
enum { POCKETBERT_FLOAT32 = 1, POCKETBERT_INT64 = 2, POCKETBERT_INT32 = 3, POCKETBERT_BOOL = 4 };

/* What the model says of one input or output. A shorter sequence is computed at exactly its length, so it costs less and
 * needs no padding. */
typedef struct {
    const char *name;   /* UTF-8, as in the model that was compiled */
    int32_t type;       /* an element type */
    int32_t rank;       /* how many of the dimensions count, 0 to 4 */
    int64_t shape[4];   /* in elements, for the longest sequence, the innermost last */
    int32_t token_axis; /* the dimension that may be 1 to shape[token_axis] tokens, the same in all tensors; -1: none */
    int64_t low;        /* the least id of integers that index a table; where it equals `high` any value will do */
    int64_t high;       /* one more than the largest id */
    size_t bytes;       /* of a dense buffer, for the longest sequence */
} pocketbert_info;

/* The model: its tensors in the order in which a run takes them. */
typedef struct {
    size_t size;                    /* set it to sizeof(pocketbert_description) before the call */
    int32_t tokens;                 /* of the longest sequence */
    int32_t input_count;            /* entries of `inputs` */
    const pocketbert_info *inputs;  /* the library's */
    int32_t output_count;           /* entries of `outputs` */
    const pocketbert_info *outputs; /* the library's */
    size_t arena_bytes;             /* memory that an open model needs besides its threads' scratch */
    size_t weight_bytes;            /* read-only, and shared by all models and processes */
    const char *cpu;                /* whose kernels this machine gets, of the library's (or would need at least) */
    int32_t pieces;                 /* in the vocabulary; 0: the library has none */
    int32_t task;                   /* POCKETBERT_NO_TASK or another */
    int32_t labels;                 /* how many `classify` and `entities` know */
    int32_t vector;                 /* elements of what `embed` gives */
    int32_t text_tokens;            /* of the longest text that run_text reads whole, special pieces included */
    int32_t batch;                  /* sequences side by side: dimension 0 of every tensor may be 1 to it; 1: one */
    const char *facts;              /* how text is read, what for, and which file says so: JSON; the library's */
} pocketbert_description;

/* A buffer of the caller's, which is read or written in place during the run, and not kept after it. Inputs may share
 * memory with each other; an output that shares some with another tensor is refused. */
typedef struct {
    void *data;       /* dense, row-major, aligned to its element type; as many bytes as the shape says */
    int32_t type;     /* an element type */
    int32_t rank;     /* how many of the dimensions count, 0 to 4 */
    int64_t shape[4]; /* in elements, the innermost last */
} pocketbert_tensor;

/* Set `size` to sizeof(pocketbert_options) and leave the rest 0 for the defaults. The caller's thread is never moved to
 * another core. */
typedef struct {
    size_t size;
    int32_t threads; /* 1 to 64 with the caller's own, or 0 for what the library was built with */
    int32_t profile; /* 1: keep when every kernel ran, for the function `profile` */
    uint64_t cores;  /* bit i: core i, which must exist, for the model's threads; UINT64_MAX: all; 0: the big ones */
    const volatile int32_t *cancel; /* yours until the model is closed, or NULL. While it is not 0, runs end with
                                       POCKETBERT_ERROR_CANCELLED: one under way within a layer */
    void (*log)(void *user, const char *message); /* or NULL: called for every failure, on the thread that it happens
                                                     on; it must call no function of the model */
    void *user;                                   /* for `log` */
} pocketbert_options;

/* The tokens of a text: what to make of it, arrays of yours to fill, and what was found. Set `size` to
 * sizeof(pocketbert_tokens) and what you do not use to 0 or NULL. */
typedef struct {
    size_t size;
    int32_t max_tokens; /* room in the arrays; what does not fit is cut off, from the longer text first */
    int32_t windows;    /* 1: cut only the last text, so that windows over it can follow each other: */
    int32_t skip;       /* leave out so many of the last text's tokens at its beginning */
    int32_t count;      /* receives how many tokens were written */
    int32_t overflow;   /* receives how many tokens there are beyond them, those that were skipped not counted */
    int64_t *ids;
    int64_t *segments; /* as the model's template says */
    int8_t *texts;     /* 0 and 1: of the first text and the second; -1: a special piece around them */
    int64_t *begins;   /* bytes in its text; 0 for a special piece */
    int64_t *ends;
    int32_t *words; /* of which word of its text, as the tokenizer parts it, from 0 on; -1 for a special piece */
} pocketbert_tokens;

/* What a model that was built from a folder is for. */
enum {
    POCKETBERT_NO_TASK,
    POCKETBERT_CLASSIFY,
    POCKETBERT_ENTITIES,
    POCKETBERT_FILL,
    POCKETBERT_EMBED,
    POCKETBERT_ANSWER
};

/* A text, or a pair, as UTF-8 that needs no NUL at its end. The caller's. */
typedef struct {
    const char *text;
    size_t text_bytes;
    const char *pair; /* NULL: there is none */
    size_t pair_bytes;
} pocketbert_text;

/* What becomes of a text of more tokens than are read at once: an error; or it is cut, of a pair the longer text first; or
 * all of it is read, in windows that share some tokens. */
enum { POCKETBERT_REFUSE, POCKETBERT_TRUNCATE, POCKETBERT_WINDOWS };

/* How a task reads its text and what it tells of it. Set `size` to sizeof(pocketbert_task_options) and leave the rest 0 for
 * the defaults; NULL in its place has the same effect. It is read, and not kept. */
typedef struct {
    size_t size;
    int32_t long_text; /* POCKETBERT_REFUSE, _TRUNCATE or _WINDOWS; `answer` always reads in windows */
    int32_t
        max_tokens;  /* that are read at once, special pieces included; 0: as many as the model takes (`answer`: 384) */
    int32_t stride;  /* tokens that neighbouring windows share; 0: half of a window, 128 at most; -1: none */
    int32_t longest; /* `answer`: tokens of the longest answer; 0: 15 */
    int32_t no_answer;    /* `answer`: 1: that there is none is one of the answers; it is empty, and begins at 0 */
    float threshold;      /* `classify`, `entities`, `answer`: leave out what has a lower score; not for a regression */
    const int32_t *allow; /* `classify`: numbers of the only labels to tell of; NULL: all */
    int32_t allow_count;
    int32_t deny_count;
    const int32_t *deny; /* `classify`: and of those to leave out */
} pocketbert_task_options;

/* A label, or a piece of the vocabulary, by its number, and how probable it is. */
typedef struct {
    int32_t label;
    float score;
} pocketbert_label;

/* A stretch of a text. */
typedef struct {
    const char *name; /* the label without its B- or I-; the library's */
    float score;      /* the mean of its tokens' probabilities */
    int64_t begin;    /* bytes in the text */
    int64_t end;
} pocketbert_entity;

/* A stretch of the context that answers a question. */
typedef struct {
    float score; /* the probability that it begins there times that it ends there; of equal answers the sum */
    int32_t unused;
    int64_t begin; /* bytes in the context */
    int64_t end;
} pocketbert_answer;

/* Elements of vectors that are smaller than float32: int8, in steps of a 127th of the largest element's size; a bit, the
 * first element in the first byte's highest, for whether it is above 0. */
enum { POCKETBERT_INT8 = 5, POCKETBERT_BITS = 6 };

/* One kernel of one run, of a batch of its last sequence: when it ran, and on which thread. */
typedef struct {
    int32_t call;     /* its number in the manifest's "calls"; -1 is the whole run */
    int32_t thread;   /* 0 is the caller of `run` */
    int64_t start_ns; /* nanoseconds of the monotonic clock */
    int64_t end_ns;
} pocketbert_record;

/* An open model. A closed one is recognised, whatever has been opened since, and refused. */
typedef struct pocketbert_model pocketbert_model;

/* One library's functions, as its own header describes them. Grows at its end: `size` says how far it goes. */
typedef struct {
    size_t size;
    int32_t abi_version; /* where this is not POCKETBERT_ABI, call nothing */
    int32_t (*open)(const pocketbert_options *options, pocketbert_model **model);
    int32_t (*run)(pocketbert_model *model, const pocketbert_tensor *inputs, int32_t input_count,
                   const pocketbert_tensor *outputs, int32_t output_count);
    void (*close)(pocketbert_model *model);
    const char *(*last_error)(const pocketbert_model *model);
    void (*describe)(pocketbert_description *description);
    int32_t (*tokenize)(const char *text, size_t text_bytes, const char *pair, size_t pair_bytes, int32_t max_tokens,
                        int64_t *ids, int64_t *segments, int32_t *count);
    int32_t (*run_text)(pocketbert_model *model, const char *text, size_t text_bytes, const char *pair,
                        size_t pair_bytes, pocketbert_tensor *outputs, int32_t output_count, int32_t *tokens);
    const char *(*token)(int32_t id);
    int32_t (*profile)(pocketbert_model *model, const pocketbert_record **records, int32_t *count);
    int32_t (*encode)(const char *text, size_t text_bytes, const char *pair, size_t pair_bytes,
                      pocketbert_tokens *tokens);
    const char *(*label)(int32_t number);
    int32_t (*classify)(pocketbert_model *model, const char *text, size_t text_bytes, const char *pair,
                        size_t pair_bytes, const pocketbert_task_options *options, pocketbert_label *labels,
                        int32_t room, int32_t *count, int32_t *overflow);
    int32_t (*embed)(pocketbert_model *model, const char *text, size_t text_bytes,
                     const pocketbert_task_options *options, float *vector, int32_t size, int32_t *overflow);
    int32_t (*entities)(pocketbert_model *model, const char *text, size_t text_bytes,
                        const pocketbert_task_options *options, pocketbert_entity *entities, int32_t room,
                        int32_t *count, int32_t *overflow);
    int32_t (*fill)(pocketbert_model *model, const char *text, size_t text_bytes,
                    const pocketbert_task_options *options, pocketbert_label *pieces, int32_t each, int32_t room,
                    int32_t *masks, int32_t *overflow);
    int32_t (*answer)(pocketbert_model *model, const char *question, size_t question_bytes, const char *context,
                      size_t context_bytes, const pocketbert_task_options *options, pocketbert_answer *answers,
                      int32_t room, int32_t *count);
    int32_t (*classify_all)(pocketbert_model *model, const pocketbert_text *texts, int32_t text_count,
                            const pocketbert_task_options *options, pocketbert_label *labels, int32_t each,
                            int32_t *overflows);
    int32_t (*embed_all)(pocketbert_model *model, const pocketbert_text *texts, int32_t text_count,
                         const pocketbert_task_options *options, float *vectors, int32_t size, int32_t *overflows);
    int32_t (*convert)(const float *vector, int32_t size, int32_t type, void *converted);
    float (*cosine)(const void *a, const void *b, int32_t size, int32_t type);
} pocketbert_functions;

#ifdef __cplusplus
}
#endif
#endif
