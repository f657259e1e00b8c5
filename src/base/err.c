/* Names and texts of the error codes; see err.h. */
#include "base/err.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const char *const err_names[] = {
#define X(name, text) #name,
    NEF_ERR_LIST(X)
#undef X
};

static const char *const err_texts[] = {
#define X(name, text) text,
    NEF_ERR_LIST(X)
#undef X
};

const char *nef_err_name(nef_err err)
{
    return (unsigned)err < COUNT(err_names) ? err_names[(unsigned)err] : "E_UNKNOWN";
}

const char *nef_err_text(nef_err err)
{
    return (unsigned)err < COUNT(err_texts) ? err_texts[(unsigned)err] : "unknown error";
}
