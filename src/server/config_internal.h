/* What config.c and config_ai.c share; for nobody else. */
#ifndef NEF_SERVER_CONFIG_INTERNAL_H
#define NEF_SERVER_CONFIG_INTERNAL_H

#include <sys/types.h>
#include "server/config.h"

#define NS_PER_MS 1000000ull
#define NS_PER_S  1000000000ull
#define NS_PER_H  (3600 * NS_PER_S)

#define FIELD(type, member, kind_) .kind = NEF_CONFIG_##kind_, .offset = offsetof(type, member)
#define SCHEMA(fields_)            {.fields = (fields_), .field_count = NEF_COUNT(fields_)}

extern const struct nef_config_schema nef_server_tls_schema, nef_ai_schema; /* of nef_server_tls, nef_ai_config */

/* BAD: mode bits that make the file too open. */
NEF_MUST_CHECK nef_err nef_check_private(const struct nef_config_source *source, const char *key, const char *path,
                                         mode_t bad, struct nef_config_error *error);
NEF_MUST_CHECK nef_err nef_check_ai(const struct nef_config_source *source, const struct nef_zone_config *c,
                                    struct nef_config_error *error);

#endif
