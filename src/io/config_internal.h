/* What the files of the configuration reader share: single values as text. PURE. */
#ifndef NEF_IO_CONFIG_INTERNAL_H
#define NEF_IO_CONFIG_INTERNAL_H

#include "io/config.h"

#define NEF_CONFIG_STRING_MAX 4096u
#define NEF_CONFIG_LIST_MAX   64u /* of a LIST without max */

/* Parse TEXT as a scalar of FIELD's kind into the value at VALUE (the C type of the kind). quoted:
 * it stood in quotes, which numbers and booleans refuse. dir: of the file, for PATH ("" for none).
 * On failure nothing is written and why (of why_bytes) says what would be right: "must be between 1
 * and 64". */
NEF_MUST_CHECK nef_err nef_config_scalar(const struct nef_config_field *field, const char *text,
                                         bool quoted, const char *dir, void *value, char *why,
                                         size_t why_bytes);

/* Append the text of the value as the file shows it. VALUE must not be a NULL string. */
void nef_config_scalar_text(const struct nef_config_field *field, const void *value,
                            struct nef_buf *out);

/* The kinds whose C type is char *. */
bool nef_config_is_text(enum nef_config_kind kind);

#endif
