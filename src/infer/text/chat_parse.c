/* What the model said, taken apart while it comes (chat.h).
 *
 *   START --<think> or not--> LEAD --> REASONING --</think>--> TRAIL --> CONTENT <--> CALL --malformed--> BROKEN
 *   (thinking only)                                                                                          |
 *                                                              CONTENT <-----------</tool_call>--------------+
 *
 * LEAD and TRAIL drop newlines after <think> and </think>, as the template does; newlines before </think> and around
 * tool calls are held back and dropped when the tag comes. Every decision is taken at one byte, from the bytes before
 * it, so the pieces a text arrives in don't change what is said of it.
 *
 * Behaviour is that of vLLM's qwen3 reasoning parser and hermes tool parser, with these differences: text after a call
 * is content, not dropped; newlines around tags are dropped; a malformed block spoils itself only, not the calls
 * beside it. As there, a block ends at the first </tool_call>, and one that is whole needs none at the end of the
 * text. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/buf.h"
#include "infer/text/chat.h"
#include "infer/text/chat_call.h"

static const char think_open[] = "<think>", think_close[] = "</think>";
static const char call_open[] = "<tool_call>", call_close[] = "</tool_call>";

enum state { START, LEAD, REASONING, TRAIL, CONTENT, CALL, BROKEN };

struct nef_chat_parser {
    bool tools;
    enum state state;
    nef_chat_emit emit;
    void *context;
    nef_err err;
    /* held back */
    size_t newlines; /* before a tag, perhaps */
    size_t matched;  /* bytes of the tag that the state looks for */
    bool after_call; /* nothing but newlines since the last call: they are dropped at the end */
    struct nef_buf space; /* START: whitespace */
    /* the call */
    struct nef_call_scan call;
    struct nef_buf block;     /* its text, for the case that it is malformed: held newlines, tag, all */
    struct nef_buf arguments; /* those that came before the name */
    bool begun;               /* TOOL_BEGIN was emitted */
    uint32_t index, whole;
    uint64_t seen;     /* bytes taken before this one */
    uint64_t reasoned; /* as nef_chat_parser_reasoned says */
    /* a piece that is being collected */
    enum nef_chat_part part;
    struct nef_buf piece;
};

/* ---- giving ---- */

static void flush(struct nef_chat_parser *p)
{
    if (p->piece.failed)
        p->err = NEF_E_NOMEM;
    if (p->err == NEF_OK && p->piece.bytes > 0)
        p->emit(p->context, p->part, p->index, (const char *)p->piece.data, p->piece.bytes);
    nef_buf_reset(&p->piece);
}

static void give(struct nef_chat_parser *p, enum nef_chat_part part, const char *text, size_t bytes)
{
    if (p->part != part)
        flush(p);
    p->part = part;
    nef_buf_append(&p->piece, text, bytes);
    p->after_call = false;
}

static void give_event(struct nef_chat_parser *p, enum nef_chat_part part, const char *text, size_t bytes)
{
    flush(p);
    if (p->err == NEF_OK)
        p->emit(p->context, part, p->index, text, bytes);
}

/* What was held turns out to be text. */
static void give_held(struct nef_chat_parser *p, enum nef_chat_part part, const char *tag)
{
    for (; p->newlines > 0; p->newlines--)
        give(p, part, "\n", 1);
    if (p->matched > 0)
        give(p, part, tag, p->matched);
    p->matched = 0;
}

/* ---- tags ---- */

/* C is the next byte where TAG may come; true: it has come whole, or goes on. A tag has '<' only at its start, so a
 * mismatch needs no second look at what was held. */
static bool match(struct nef_chat_parser *p, const char *tag, char c, bool *out_whole)
{
    *out_whole = false;
    if (c != tag[p->matched])
        return false;
    p->matched++;
    if (tag[p->matched] == '\0') {
        p->matched = 0;
        *out_whole = true;
    }
    return true;
}

/* ---- tool calls ---- */

static void begin_call(struct nef_chat_parser *p)
{
    nef_buf_reset(&p->block);
    nef_buf_reset(&p->arguments);
    for (; p->newlines > 0; p->newlines--)
        nef_buf_u8(&p->block, '\n');
    nef_buf_text(&p->block, call_open);
    nef_call_begin(&p->call);
    p->begun = false;
    p->state = CALL;
}

/* The block is malformed: it is content after all. */
static void break_call(struct nef_chat_parser *p)
{
    flush(p);
    if (p->begun)
        p->index++; /* that call stays unfinished */
    give(p, NEF_CHAT_CONTENT, (const char *)p->block.data, p->block.bytes);
    nef_buf_reset(&p->block);
    p->state = BROKEN;
}

static void end_call(struct nef_chat_parser *p)
{
    give_event(p, NEF_CHAT_TOOL_END, "", 0);
    p->index++;
    p->whole++;
    p->after_call = true;
    p->state = CONTENT;
}

/* Name and the start of the arguments are known: the call can be shown. */
static void show_call(struct nef_chat_parser *p)
{
    if (p->begun || !p->call.have_name || (p->arguments.bytes == 0 && !p->call.have_arguments))
        return;
    give_event(p, NEF_CHAT_TOOL_BEGIN, (const char *)p->call.name.data, p->call.name.bytes);
    p->begun = true;
    give(p, NEF_CHAT_TOOL_ARGUMENTS, (const char *)p->arguments.data, p->arguments.bytes);
    nef_buf_reset(&p->arguments);
}

/* One byte between the tags. */
static void take_call(struct nef_chat_parser *p, char c)
{
    bool argument = false, good;

    nef_buf_u8(&p->block, (uint8_t)c);
    good = nef_call_take(&p->call, c, &argument, &p->err) && p->block.bytes <= NEF_CHAT_CALL_BYTES_MAX;
    if (p->block.failed || p->arguments.failed)
        p->err = NEF_E_NOMEM;
    if (p->err != NEF_OK)
        return;
    if (!good) {
        break_call(p);
        return;
    }
    if (argument && p->begun)
        give(p, NEF_CHAT_TOOL_ARGUMENTS, &c, 1);
    else if (argument)
        nef_buf_u8(&p->arguments, (uint8_t)c);
    show_call(p);
}

static void step_call(struct nef_chat_parser *p, char c)
{
    size_t matched = p->matched;
    bool whole;

    if (match(p, call_close, c, &whole)) {
        if (!whole)
            return;
        if (nef_call_whole(&p->call)) {
            end_call(p);
            return;
        }
        nef_buf_text(&p->block, call_close);
        break_call(p);
        p->state = CONTENT;
        return;
    }
    p->matched = 0;
    for (size_t i = 0; i < matched; i++) { /* what was held is inside the block */
        if (p->state == CALL)
            take_call(p, call_close[i]);
        else
            give(p, NEF_CHAT_CONTENT, call_close + i, 1);
    }
    if (p->state == CALL) {
        if (matched > 0 && match(p, call_close, c, &whole))
            return;
        take_call(p, c);
    } else {
        p->matched = c == call_close[0];
        give(p, NEF_CHAT_CONTENT, &c, 1);
    }
}

/* Verbatim, up to the block's end. matched counts bytes that were given already. */
static void step_broken(struct nef_chat_parser *p, char c)
{
    bool whole = false;

    give(p, NEF_CHAT_CONTENT, &c, 1);
    if (!match(p, call_close, c, &whole)) {
        p->matched = 0;
        (void)match(p, call_close, c, &whole);
    }
    if (whole)
        p->state = CONTENT;
}

/* ---- text ---- */

/* A byte of text that ends at TAG; true: the tag has come. */
static bool step_text(struct nef_chat_parser *p, enum nef_chat_part part, const char *tag, char c)
{
    bool whole;

    if (p->matched > 0) {
        if (match(p, tag, c, &whole))
            return whole;
        give_held(p, part, tag);
    }
    if (match(p, tag, c, &whole))
        return whole;
    if (c == '\n') {
        p->newlines++;
        return false;
    }
    give_held(p, part, tag);
    give(p, part, &c, 1);
    return false;
}

static void step(struct nef_chat_parser *p, char c);

static void replay_start(struct nef_chat_parser *p)
{
    size_t matched = p->matched;

    p->matched = 0;
    p->state = LEAD;
    for (size_t i = 0; i < p->space.bytes; i++)
        step(p, (char)p->space.data[i]);
    for (size_t i = 0; i < matched; i++)
        step(p, think_open[i]);
    nef_buf_reset(&p->space);
}

static void step_start(struct nef_chat_parser *p, char c)
{
    bool whole;

    if (match(p, think_open, c, &whole)) {
        if (whole)
            p->state = LEAD;
        return;
    }
    if (p->matched == 0 && (c == '\n' || c == ' ' || c == '\t' || c == '\r')) {
        nef_buf_u8(&p->space, (uint8_t)c);
        if (p->space.failed)
            p->err = NEF_E_NOMEM;
        return;
    }
    replay_start(p);
    step(p, c);
}

static void step(struct nef_chat_parser *p, char c)
{
    switch (p->state) {
    case START:
        step_start(p, c);
        break;
    case LEAD:
        if (c == '\n')
            break;
        p->state = REASONING;
        /* fallthrough */
    case REASONING:
        if (step_text(p, NEF_CHAT_REASONING, think_close, c)) {
            p->newlines = 0;
            p->reasoned = p->seen + 1;
            p->state = TRAIL;
        }
        break;
    case TRAIL:
        if (c == '\n')
            break;
        p->state = CONTENT;
        /* fallthrough */
    case CONTENT:
        if (!p->tools)
            give(p, NEF_CHAT_CONTENT, &c, 1);
        else if (step_text(p, NEF_CHAT_CONTENT, call_open, c))
            begin_call(p);
        break;
    case CALL:
        step_call(p, c);
        break;
    case BROKEN:
        step_broken(p, c);
        break;
    }
}

/* ---- the interface ---- */

nef_err nef_chat_parser_open(bool thinking, bool tools, nef_chat_emit emit, void *context,
                             struct nef_chat_parser **out_parser)
{
    struct nef_chat_parser *p = calloc(1, sizeof(*p));

    if (p == NULL)
        return NEF_E_NOMEM;
    p->tools = tools;
    p->state = thinking ? START : CONTENT;
    p->reasoned = thinking ? UINT64_MAX : 0;
    p->emit = emit;
    p->context = context;
    *out_parser = p;
    return NEF_OK;
}

nef_err nef_chat_parser_take(struct nef_chat_parser *p, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes && p->err == NEF_OK; i++, p->seen++)
        step(p, text[i]);
    flush(p);
    return p->err;
}

static void end_in_call(struct nef_chat_parser *p)
{
    if (nef_call_whole(&p->call)) { /* only its closing tag is missing */
        p->matched = 0;
        end_call(p);
        return;
    }
    if (p->begun) { /* what there is of it was given, but for what might have been the tag */
        size_t matched = p->matched;

        p->matched = 0;
        for (size_t i = 0; i < matched && p->state == CALL; i++)
            take_call(p, call_close[i]);
        flush(p);
        p->index++;
        p->state = CONTENT;
        return;
    }
    nef_buf_append(&p->block, call_close, p->matched);
    p->matched = 0;
    if (p->block.failed)
        p->err = NEF_E_NOMEM;
    else
        break_call(p);
    p->state = CONTENT;
}

nef_err nef_chat_parser_end(struct nef_chat_parser *p)
{
    if (p->err != NEF_OK)
        return p->err;
    if (p->state == START)
        replay_start(p);
    switch (p->state) {
    case REASONING:
        give_held(p, NEF_CHAT_REASONING, think_close);
        break;
    case CONTENT:
        if (p->after_call && p->matched == 0)
            p->newlines = 0;
        give_held(p, NEF_CHAT_CONTENT, call_open);
        break;
    case CALL:
        end_in_call(p);
        break;
    case START:
    case LEAD:
    case TRAIL:
    case BROKEN:
        p->matched = 0;
        break;
    }
    flush(p);
    return p->err;
}

uint32_t nef_chat_parser_tools(const struct nef_chat_parser *p)
{
    return p->whole;
}

uint64_t nef_chat_parser_reasoned(const struct nef_chat_parser *p)
{
    return p->reasoned;
}

void nef_chat_parser_close(struct nef_chat_parser *p)
{
    if (p == NULL)
        return;
    nef_call_done(&p->call);
    nef_buf_free(&p->space);
    nef_buf_free(&p->block);
    nef_buf_free(&p->arguments);
    nef_buf_free(&p->piece);
    free(p);
}
