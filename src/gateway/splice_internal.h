/* What splice.c and splice_text.c share; for nobody else. */
#ifndef NEF_GATEWAY_SPLICE_INTERNAL_H
#define NEF_GATEWAY_SPLICE_INTERNAL_H

#include "base/buf.h"
#include "gateway/splice.h"

#define NEF_SPLICE_CALLS_MAX 256u

enum nef_splice_way { NEF_SPLICE_FRESH, NEF_SPLICE_IDS, NEF_SPLICE_TEXT };

/* A tool call; its arguments are one JSON object, whose end is found while it comes. */
struct nef_splice_call {
    struct nef_buf name, arguments;
    uint32_t depth;
    bool in_string, escaped, whole;
};

/* Where a text-way try goes on. */
enum nef_seam_mode {
    NEF_SEAM_NONE,
    NEF_SEAM_THINKING, /* content is reasoning until </think> */
    NEF_SEAM_EITHER, /* the rest of a thought, or an answer that began at once: kept until </think> or the end tells */
    NEF_SEAM_ARGUMENTS, /* content is the rest of a call's arguments, until they are whole */
    NEF_SEAM_CALL_END,  /* content is dropped until </tool_call> */
    NEF_SEAM_REPEATED,  /* the backend gives the unfinished call again, from its beginning: what was given is dropped */
    NEF_SEAM_BLANK,     /* blank lines behind a block are dropped */
};

struct nef_splice {
    bool chat, client_ids;
    json_t *body;
    uint64_t seed;
    /* given */
    struct nef_buf content, reasoning, ids; /* ids: uint32_t each */
    struct nef_splice_call *calls;
    uint32_t call_count;
    uint64_t pieces, prompt_ids;
    bool ids_whole;    /* ids are those of all that was given */
    bool ids_built_in; /* and they are the built-in engine's */
    bool given_any, finished;
    bool refused; /* a backend refused to go on: it is asked for less */
    /* of this try */
    enum nef_splice_way way;
    bool asked_built_in, role_seen, usage_told;
    struct nef_ai_usage told;
    uint64_t tokens_before;
    uint32_t calls_before; /* text way: this try's calls have these before them */
    struct {
        enum nef_seam_mode mode;
        struct nef_buf held; /* a piece that may be the beginning of a tag */
        size_t repeated;     /* bytes of the arguments that came again */
        bool constrained;    /* THINKING: nothing came yet, and the answer is to be JSON or the like */
    } seam;
};

/* The answer so far as the model wrote it. */
void nef_splice_text(const struct nef_splice *s, struct nef_buf *out);
/* The next try goes on in the text way. */
void nef_splice_seam_begin(struct nef_splice *s);
/* Changes CHOICE (our own copy) to what the client is to get. */
NEF_MUST_CHECK nef_err nef_splice_seam(struct nef_splice *s, json_t *choice);
/* More of a call's arguments. */
void nef_splice_arguments(struct nef_splice_call *c, const char *text, size_t bytes);

#endif
