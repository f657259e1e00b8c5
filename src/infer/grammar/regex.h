/* Patterns: the tree that regex_parse.c makes and regex.c turns into an automaton. */
#ifndef NEF_INFER_REGEX_H
#define NEF_INFER_REGEX_H

#include "infer/grammar/compile.h"

enum nef_regex_kind {
    NEF_REGEX_EMPTY,
    NEF_REGEX_SET,
    NEF_REGEX_BEGIN, /* ^ */
    NEF_REGEX_END,   /* $ */
    NEF_REGEX_THEN,  /* left, then right */
    NEF_REGEX_OR,
    NEF_REGEX_REPEAT, /* left, min to max times */
};
struct nef_regex_node {
    enum nef_regex_kind kind;
    uint32_t left, right;
    uint32_t min, max;     /* max NEF_NO_BOUND: any number */
    uint32_t first, count; /* ranges of a set: ascending, with gaps between */
};
struct nef_regex {
    struct nef_compile *c; /* errors go here */
    struct nef_regex_node *nodes;
    size_t node_count, node_room;
    struct nef_range *ranges;
    size_t range_count, range_room;
};
/* The root's number; on an error c->err is set. at: errors say where (nef_compile_fail_at). */
uint32_t nef_regex_parse(struct nef_regex *r, const char *pattern, size_t bytes);
void nef_regex_done(struct nef_regex *r);

#endif
