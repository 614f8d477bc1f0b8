/* What a build decides, with defaults by which every source opens and compiles alone.
 *
 * A build defines PB(name), which the names of public symbols are made with: PB(open) is mobilebert_open. It writes what it
 * knows of the tokenizer into vocabulary.h.
 */
#ifndef PB_CONFIG_H
#define PB_CONFIG_H

#define PB_PUBLIC __attribute__((visibility("default")))

#ifdef PB
#include "vocabulary.h"
#else
#define PB(name) pb_##name
#define PB_PIECES 5     /* 0: no tokenizer */
#define PB_PAD 0        /* the id that a text is padded with; -1: none */
#define PB_MAX_TOKENS 0 /* of a text that the model was made for; 0: as many as it takes */
#define PB_TEXT_INPUTS PB_TEXT_IDS, PB_TEXT_MASK, PB_TEXT_SEGMENTS /* what each input of the model takes of a text */
#define PB_MODEL PB_WORDPIECE                                      /* text.h has these and the tables */
#define PB_UNKNOWN 1
#define PB_UNKNOWN_SCORE 0.0
#define PB_LONGEST_WORD 100 /* in characters; a longer one is unknown */
#define PB_STEPS {PB_STEP_MAP, 1}
#define PB_STEP_COUNT 1
#define PB_STABLE 0xC0 /* characters below it are in the steps' normal forms */
#define PB_COMPOSITIONS 0
#define PB_SPLIT PB_SPLIT_BERT
#define PB_CLASSES 0         /* maps: of characters to what words are made of, */
#define PB_GRAPHEMES 0       /* to what grapheme clusters are made of, */
#define PB_WORD_CHARACTERS 0 /* to whether an added token is inside a word beside them */
#define PB_METASPACE PB_NONE
#define PB_METASPACE_SPLITS 1
#define PB_PREFIX_SPACE 0
#define PB_CUTS 1 /* whether a blank between words parts a text into two that do not matter to each other */
#define PB_TRIM 0 /* offsets leave blanks out, */
#define PB_TRIM_KEEPS_PREFIX 0 /* but not the first token's one */
#define PB_SINGLE {PB_PIECE_SPECIAL, 2, 0}, {PB_PIECE_FIRST, 0, 0}, {PB_PIECE_SPECIAL, 3, 0}
#define PB_PAIR {PB_PIECE_SPECIAL, 2, 0}, {PB_PIECE_FIRST, 0, 0}, {PB_PIECE_SECOND, 0, 1}
#define PB_SINGLE_SPECIALS 2
#define PB_PAIR_SPECIALS 1
#define PB_TASK POCKETBERT_NO_TASK
#define PB_TASK_OUTPUT 0 /* which output the task reads; `answer`: where answers begin, */
#define PB_END_OUTPUT 0  /* and where they end */
#define PB_LOWER -1      /* `answer`: a map of characters to lower case; -1: none */
#define PB_LABELS 0
#define PB_ACTIVATION PB_SOFTMAX
#define PB_POOLING PB_POOL_MEAN
#define PB_UNIT_VECTORS 0 /* whether `embed` normalizes */
#define PB_MASK -1
#endif

/* As in compile/kernels/contract.py, with which the generated plan compares them. */
enum {
    PB_MOST_OUTPUTS = 8, /* of a model that has a task */
    PB_MOST_PACKED = 32, /* texts that a list's run has side by side */
    PB_ALIGNMENT = 64,   /* bytes: tensors begin at multiples of a cache line, which is the widest vector, too */
    PB_SLACK = 64,       /* bytes after a tensor that a vector kernel may read, and never write */
};

#endif
