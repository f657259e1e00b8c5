/* A grammar under construction: what the files that compile share (grammar_internal.h says which does what). The first
 * error stays (`err`, `error`), and nothing happens after it. */
#ifndef NEF_INFER_COMPILE_H
#define NEF_INFER_COMPILE_H

#include "infer/grammar/machine.h"

enum { NEF_NFA_BYTES, NEF_NFA_EMPTY, NEF_NFA_CALL };
struct nef_nfa_edge {
    uint32_t from, to;
    uint32_t callee;
    uint8_t kind, low, high;
    uint8_t weight;
};
struct nef_range { /* of code points, both ends inside */
    uint32_t low, high;
};

enum nef_alternative_kind { /* what a value may be; the order is that in which they are emitted */
                            NEF_KIND_OBJECT,
                            NEF_KIND_ARRAY,
                            NEF_KIND_STRING,
                            NEF_KIND_NUMBER,
                            NEF_KIND_INTEGER,
                            NEF_KIND_BOOLEAN,
                            NEF_KIND_NULL,
                            NEF_KIND_VALUES, /* enum, const */
};
struct nef_alternative {
    uint32_t node;
    uint8_t kind;
    bool shared; /* met at several places: gets a rule */
};
struct nef_alternatives {
    struct nef_alternative *list; /* ascending by node and kind, each once */
    size_t count, room;
};
struct nef_schema_node { /* a schema that was met; number 0 is {} */
    const json_t *json, *root;
    uint32_t visits;
    bool active; /* alternatives.c is inside it */
};
struct nef_rule {
    uint32_t first, count; /* in rule_alternatives */
    uint32_t callee;
    bool called;
};
struct nef_compile {
    const struct nef_grammar_vocab *vocab;
    struct nef_machine machine;
    nef_err err;
    char *error;          /* NEF_GRAMMAR_ERROR_MAX bytes */
    struct nef_buf where; /* what comes before a pointer in an error, and the pointer */
    size_t where_root;    /* bytes of the first */
    /* the schema's nodes */
    json_t *any; /* {} */
    const json_t *root;
    struct nef_schema_node *nodes;
    uint32_t *node_table, node_table_size;
    size_t node_count, node_room;
    uint32_t depth;
    /* rules */
    struct nef_rule *rules;
    struct nef_alternative *rule_alternatives;
    uint32_t *rule_table, rule_table_size;
    size_t rule_count, rule_room, rule_alternative_count, rule_alternative_room;
    bool called;         /* what is emitted is inside a tool call */
    uint32_t containers; /* opened since the rule began */
    /* the rule that is being made */
    struct nef_nfa_edge *nfa;
    size_t nfa_count, nfa_room;
    uint32_t nfa_states;
    uint64_t work;
};

/* compile.c: errors. WHERE is added by refuse_at: 'TEXT at #/pointer'. */
void nef_compile_fail(struct nef_compile *c, nef_err err, const char *format, ...) NEF_PRINTF(3, 4);
void nef_compile_fail_at(struct nef_compile *c, nef_err err, const char *format, ...) NEF_PRINTF(3, 4);
bool nef_compile_work(struct nef_compile *c, uint64_t steps); /* false: too much */

/* nfa.c */
uint32_t nef_nfa_state(struct nef_compile *c);
void nef_nfa_empty(struct nef_compile *c, uint32_t from, uint32_t to);
void nef_nfa_bytes(struct nef_compile *c, uint32_t from, uint8_t low, uint8_t high, uint32_t to);
void nef_nfa_call(struct nef_compile *c, uint32_t from, uint32_t callee, uint32_t to);
uint32_t nef_nfa_text(struct nef_compile *c, uint32_t from, const char *text, size_t bytes); /* returns the end */
/* One optional space. */
uint32_t nef_nfa_space(struct nef_compile *c, uint32_t from);
/* A character of one of RANGES as it is written inside a JSON string: plain, or the one escape that it needs. */
void nef_nfa_characters(struct nef_compile *c, uint32_t from, const struct nef_range *ranges, size_t count,
                        uint32_t to);
/* TEXT inside a JSON string, and with its quotes. */
uint32_t nef_nfa_string(struct nef_compile *c, uint32_t from, const char *text, size_t bytes);

/* dfa.c: append the states of the NFA, from its state `start` (final: `final`), to the machine; returns the first. */
uint32_t nef_dfa_make(struct nef_compile *c, uint32_t start, uint32_t final);

/* schema.c: check a schema and all it refers to; number its nodes. */
void nef_schema_check(struct nef_compile *c, const json_t *schema);
uint32_t nef_schema_node(struct nef_compile *c, const json_t *json, const json_t *root); /* which was checked */
const json_t *nef_schema_resolve(const json_t *root, const char *ref);                   /* NULL: leads nowhere */

/* alternatives.c */
void nef_alternatives_of(struct nef_compile *c, const json_t *schema, const json_t *root, struct nef_alternatives *out);
bool nef_value_has_kind(const json_t *value, enum nef_alternative_kind kind);

/* emit.c: a value of SCHEMA, from FROM; returns its end. repeated: emitted many times, so it should be small. */
uint32_t nef_emit_value(struct nef_compile *c, uint32_t from, const json_t *schema, const json_t *root, bool repeated);
void nef_emit_alternative(struct nef_compile *c, uint32_t from, struct nef_alternative a, uint32_t to);
void nef_emit_json(struct nef_compile *c, uint32_t from, const json_t *value, uint32_t to);
/* Make all rules that were called. */
void nef_emit_rules(struct nef_compile *c);

/* string.c */
void nef_string_check(struct nef_compile *c, const json_t *schema);
bool nef_string_plain(const json_t *schema); /* neither pattern nor format */
void nef_string_emit(struct nef_compile *c, uint32_t from, const json_t *schema, uint32_t to);
/* The call of the rest of a string. */
void nef_string_rest(struct nef_compile *c, uint32_t from, uint32_t min, uint32_t max, uint32_t to);
/* A key, with its quotes, that is none of the object NAMES' keys. */
void nef_string_other_key(struct nef_compile *c, uint32_t from, const json_t *names, uint32_t to);

/* number.c */
void nef_number_check(struct nef_compile *c, const json_t *schema, bool integer);
void nef_number_emit(struct nef_compile *c, uint32_t from, const json_t *schema, bool integer, uint32_t to);

/* regex.c */
/* Errors go to c, with where; the pattern is only checked. */
void nef_regex_check(struct nef_compile *c, const char *pattern, size_t bytes);
/* The inside of a string that PATTERN finds something in, of min to max characters. */
void nef_regex_emit(struct nef_compile *c, uint32_t from, const char *pattern, size_t bytes, uint32_t min, uint32_t max,
                    uint32_t to);

#endif
