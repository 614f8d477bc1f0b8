/* @NAME@: a compiled model in one library. C11 or C++; needs libc and libm, nothing else.
 *
 *     pocketbert_model *model;
 *     if (PB(open)(NULL, &model) != POCKETBERT_OK)
 *         puts(PB(last_error)(NULL));
 *     pocketbert_tensor inputs[] = {...}, outputs[] = {...};     // in the order of PB(describe)
 *     if (PB(run)(model, inputs, N, outputs, M) != POCKETBERT_OK)
 *         puts(PB(last_error)(model));
 *     PB(close)(model);
 *
@TENSORS@
 */
#ifndef PB_API_H
#define PB_API_H

#include "pocketbert.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Every function may be called from any thread at any time; pocketbert.h says more of threads and of fork(). Functions that
 * return a status return POCKETBERT_OK or POCKETBERT_ERROR_*; the message to it is what PB(last_error) returns. */

/* The POCKETBERT_ABI that the library was built with. Where yours is another, call nothing else. */
int32_t PB(abi_version)(void);

/* Prepare the model, its memory and its threads.
 *
 * options: how many threads, on which cores; NULL for the defaults. It is read, and not kept.
 * model: receives a handle, which is yours until you give it to PB(close); NULL on failure.
 * Returns a status: ARGUMENT for an option out of range, MEMORY (also for more than 256 models at once), CPU, THREAD. */
int32_t PB(open)(const pocketbert_options *options, pocketbert_model **model);

/* One inference, on the caller's thread and those of the model. Everything is checked before anything is computed: a run
 * that fails leaves the outputs as they were.
 *
 * model: from PB(open).
 * inputs, outputs: tensors in the order of PB(describe), each with its type, its rank and its shape; where the description
 *     has a token axis, all have the same number of tokens there, 1 to what it says. The arrays and the buffers are yours.
 *     Inputs are read, and outputs, which share no memory with another tensor, written in place; nothing is kept.
 * input_count, output_count: as many as the description has.
 * Returns a status: ARGUMENT, SHAPE, RANGE, BUSY where another thread runs this model, FORK. */
int32_t PB(run)(pocketbert_model *model, const pocketbert_tensor *inputs, int32_t input_count,
                const pocketbert_tensor *outputs, int32_t output_count);

/* The ids of a text as the model's tokenizer gives them: [CLS] text [SEP], or [CLS] text [SEP] pair [SEP], for BERT's. For
 * a library that was built with a tokenizer. It needs no open model, and any number of threads may be in it.
 *
 * text, text_bytes: UTF-8, up to 256 MiB, without a NUL at its end; what is not UTF-8 in it is read as U+FFFD. "[MASK]"
 *     and the other special pieces may stand in it.
 * pair, pair_bytes: the second text; NULL and 0 for none.
 * max_tokens: room for all special pieces at least; a longer result is truncated to that, the longer text first.
 * ids: receives them; yours, with room for max_tokens.
 * segments: receives 0 for the first text with its [CLS] and [SEP], 1 for the second; yours, with the same room.
 * count: receives how many were written.
 * Returns a status: ARGUMENT, VOCABULARY, MEMORY. Its message is that of PB(last_error)(NULL). */
int32_t PB(tokenize)(const char *text, size_t text_bytes, const char *pair, size_t pair_bytes, int32_t max_tokens,
                     int64_t *ids, int64_t *segments, int32_t *count);

/* The same with all that is known of the tokens: where they stand in the text, which are special, how many were cut off;
 * and windows over long texts.
 *
 * text, text_bytes, pair, pair_bytes: as in PB(tokenize).
 * tokens: pocketbert.h says what its members are; `ids` must be there. For windows that share `stride` tokens, add to
 *     `skip` what was written of the last text, less `stride`, until `overflow` is 0.
 * Returns a status: ARGUMENT, VOCABULARY, MEMORY; SHAPE where the first text leaves no room for a window of the second. Its
 *     message is that of PB(last_error)(NULL). */
int32_t PB(encode)(const char *text, size_t text_bytes, const char *pair, size_t pair_bytes, pocketbert_tokens *tokens);

/* Tokenize and run, at just the length that the text has and at most `text_tokens` of PB(describe).
 *
 * model: from PB(open).
 * text, text_bytes, pair, pair_bytes: as in PB(tokenize).
 * outputs: only `data` need be set, each a buffer of yours with room for the `bytes` of its description; type, rank, and
 *     the shape for just these tokens are filled in.
 * output_count: as many as the description has.
 * tokens: receives their number; may be NULL.
 * Returns a status: ARGUMENT, VOCABULARY, MEMORY, BUSY, FORK. */
int32_t PB(run_text)(pocketbert_model *model, const char *text, size_t text_bytes, const char *pair, size_t pair_bytes,
                     pocketbert_tensor *outputs, int32_t output_count, int32_t *tokens);

/* The label with this number as UTF-8 that ends with a NUL; NULL where there is none. The library's. */
const char *PB(label)(int32_t number);

/* What a text is, or a pair of texts: of a model that was fine-tuned to classify sequences.
 *
 * model: from PB(open).
 * text, text_bytes, pair, pair_bytes: as in PB(tokenize).
 * options: which labels, and what becomes of a long text; NULL for the defaults. Windows: the mean over them.
 * labels: receives the most probable, best first; yours. Probabilities sum to 1, or are each label's own where the model
 *     was fine-tuned for several labels a text; of a regression they are its values as they are.
 * room: of `labels`.
 * count: receives how many were written, the number of labels at most.
 * overflow: receives how many tokens of the texts are beyond those that are read at once; may be NULL.
 * Returns a status: ARGUMENT, TASK where the model is for something else, LONG, VOCABULARY, MEMORY, BUSY, FORK, CANCELLED. */
int32_t PB(classify)(pocketbert_model *model, const char *text, size_t text_bytes, const char *pair, size_t pair_bytes,
                     const pocketbert_task_options *options, pocketbert_label *labels, int32_t room, int32_t *count,
                     int32_t *overflow);

/* PB(classify) for many texts: several side by side in a run, and a run on each thread where there are as many texts as
 * threads. The first such call takes memory for one more run a thread: `arena_bytes` of PB(describe) and scratch, until the
 * model is closed.
 *
 * model, options: as in PB(classify).
 * texts, text_count: what to read; yours.
 * labels: receives `each` for a text, those of the first text first; yours. Where there are fewer, the label is -1.
 * overflows: receives one for each text; may be NULL.
 * Returns a status as PB(classify) does; it is that of the first text that has one. Then what `labels` has is of no use. */
int32_t PB(classify_all)(pocketbert_model *model, const pocketbert_text *texts, int32_t text_count,
                         const pocketbert_task_options *options, pocketbert_label *labels, int32_t each,
                         int32_t *overflows);

/* A text as a vector, pooled and normalized as its sentence-transformers folder says.
 *
 * model, text, text_bytes: as in PB(classify).
 * options: what becomes of a long text; NULL for the defaults. Windows: their mean, each as heavy as it has tokens.
 * vector: receives `vector` elements of PB(describe); yours.
 * size: its elements, at least that.
 * overflow: as in PB(classify).
 * Returns a status as PB(classify) does. */
int32_t PB(embed)(pocketbert_model *model, const char *text, size_t text_bytes, const pocketbert_task_options *options,
                  float *vector, int32_t size, int32_t *overflow);

/* PB(embed) for many texts, as PB(classify_all) is PB(classify). A text's `pair` must be NULL.
 *
 * vectors: receives a vector for each text, one after the other; yours.
 * size: elements of each. */
int32_t PB(embed_all)(pocketbert_model *model, const pocketbert_text *texts, int32_t text_count,
                      const pocketbert_task_options *options, float *vectors, int32_t size, int32_t *overflows);

/* A vector in fewer bytes, for an index: it needs no model.
 *
 * vector, size: what PB(embed) gave; yours.
 * type: POCKETBERT_INT8, which takes `size` bytes, or POCKETBERT_BITS, which takes an eighth of them, rounded up.
 * converted: receives them; yours.
 * Returns a status: ARGUMENT, also for what is infinite or no number. */
int32_t PB(convert)(const float *vector, int32_t size, int32_t type, void *converted);

/* How alike two vectors are, from -1 to 1: the cosine of the angle between them. Of POCKETBERT_BITS that of vectors of 1 and
 * -1; 0 where a vector has no length, or for a type that is none.
 *
 * a, b: `size` elements of `type` each: POCKETBERT_FLOAT32, POCKETBERT_INT8 or POCKETBERT_BITS. */
float PB(cosine)(const void *a, const void *b, int32_t size, int32_t type);

/* What is named in a text: of a model that was fine-tuned to classify tokens. Tokens side by side with the same label, but
 * for B- and I-, are one entity, unless a B- begins another; those labelled O are left out.
 *
 * model, text, text_bytes: as in PB(classify).
 * options: as in PB(classify), but for allow and deny. Windows: of entities that overlap the longest, then the more probable.
 * entities: receives them in the order of the text; yours, with `room`.
 * count: receives how many there are, which may be more than were written.
 * overflow: as in PB(classify).
 * Returns a status as PB(classify) does. */
int32_t PB(entities)(pocketbert_model *model, const char *text, size_t text_bytes,
                     const pocketbert_task_options *options, pocketbert_entity *entities, int32_t room, int32_t *count,
                     int32_t *overflow);

/* What could stand in the place of each mask ("[MASK]") in a text: of a masked language model.
 *
 * model, text, text_bytes: as in PB(classify).
 * options: what becomes of a long text; NULL for the defaults. Windows: a mask in two of them is read where it is farther
 *     from the edge.
 * pieces: receives for each mask the `each` most probable pieces, best first; yours, with `room` for all together.
 * masks: receives how many masks there are; where they need more room than there is, those that fit are written.
 * overflow: as in PB(classify).
 * Returns a status as PB(classify) does. */
int32_t PB(fill)(pocketbert_model *model, const char *text, size_t text_bytes, const pocketbert_task_options *options,
                 pocketbert_label *pieces, int32_t each, int32_t room, int32_t *masks, int32_t *overflow);

/* Where in a context the answer to a question stands: of a model that was fine-tuned to find spans. The context may be of
 * any length: it is read in windows, each with the question.
 *
 * model: from PB(open).
 * question, question_bytes, context, context_bytes: UTF-8, as in PB(tokenize).
 * options: how long windows and answers are, and whether there may be none; NULL for the defaults.
 * answers: receives the best, best first; yours. They begin and end at words; those with the same letters are one.
 * room: of `answers`.
 * count: receives how many were written.
 * Returns a status as PB(classify) does; SHAPE where the question leaves no room for the context. */
int32_t PB(answer)(pocketbert_model *model, const char *question, size_t question_bytes, const char *context,
                   size_t context_bytes, const pocketbert_task_options *options, pocketbert_answer *answers,
                   int32_t room, int32_t *count);

/* The piece with this id as UTF-8 that ends with a NUL, as the tokenizer writes it ("##ing"); NULL where there is none.
 * It belongs to the library and is valid as long as that is loaded. */
const char *PB(token)(int32_t id);

/* Wait until no other thread is using the model, and free everything that is its own. What is called with it afterwards is
 * refused.
 *
 * model: from PB(open), NULL, or closed before. Of two calls at once one frees the model, and the other may return first. */
void PB(close)(pocketbert_model *model);

/* What went wrong in the last failed call on a model, in English, and what to do.
 *
 * model: from PB(open); NULL for the last failed PB(open) or PB(tokenize), on whatever thread.
 * Returns text that belongs to the library and is valid as long as that is loaded. Never NULL. */
const char *PB(last_error)(const pocketbert_model *model);

/* What the model takes and gives.
 *
 * description: yours; `size` says how much of it you know, and so much is filled in. What its pointers lead to belongs to
 *     the library and is valid as long as that is loaded. */
void PB(describe)(pocketbert_description *description);

/* When each kernel of the last run ran, of a model that was opened with options->profile. Any other reads no clock.
 *
 * model: from PB(open).
 * records: receives an array of the model's, first the whole run, then one record for each call of a kernel on a thread,
 *     in no order. It stays as it is until PB(profile) is called again or the model is closed.
 * count: receives their number; 0 before the first run.
 * Returns a status: ARGUMENT, BUSY, FORK. */
int32_t PB(profile)(pocketbert_model *model, const pocketbert_record **records, int32_t *count);

/* All of these in one table of the library's: what C++ and code that serves any model take. */
const pocketbert_functions *PB(functions)(void);

#ifdef __cplusplus
}
#endif
#endif
