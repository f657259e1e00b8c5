/* A tokenizer with a token for each byte, and some specials; a template of Qwen3. For tests that script what a model
 * says. */
#ifndef TINY_H
#define TINY_H

#include "infer/text/chat.h"
#include "infer/text/tokenizer.h"

#define TINY_BYTES 256u /* ids below: the byte itself */
enum { TINY_IM_START = 256, TINY_IM_END, TINY_ENDOFTEXT, TINY_EURO_HEAD, TINY_MERGED, TINY_VOCAB };

/* Aborts when it can't be made. family: NULL, or gets what the template is. */
struct nef_tokenizer *tiny_tokenizer(enum nef_chat_family *family);

#endif
