/* The commands of `nef`, and what they share. Only this directory and server/ print. Exit statuses:
 * 0 done, 1 failed (said on standard error, once), 2 wrong usage or configuration. */
#ifndef NEF_CLI_CLI_H
#define NEF_CLI_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "cli/region.h"

struct nef_command {
    const char *name;
    const char *summary;               /* one line */
    int (*run)(int argc, char **argv); /* argv[0] is the command's name */
    const char *help;                  /* everything, with examples */
};
/* NULL name at the end. */
extern const struct nef_command nef_commands[];
const struct nef_command *nef_command_find(const char *name); /* NULL: none */

int nef_cmd_up(int argc, char **argv);
int nef_cmd_down(int argc, char **argv);
int nef_cmd_init(int argc, char **argv);
int nef_cmd_zone(int argc, char **argv);
int nef_cmd_witness(int argc, char **argv);
int nef_cmd_status(int argc, char **argv);
int nef_cmd_zone_stop(int argc, char **argv);
int nef_cmd_zone_start(int argc, char **argv);
int nef_cmd_zone_recover(int argc, char **argv);
int nef_cmd_etcd_alone(int argc, char **argv);
int nef_cmd_fsck(int argc, char **argv);
int nef_cmd_user(int argc, char **argv);
int nef_cmd_supervise(int argc, char **argv);
int nef_cmd_infer(int argc, char **argv);
int nef_cmd_chat(int argc, char **argv);
int nef_cmd_model(int argc, char **argv);
int nef_cmd_help(int argc, char **argv);

/* ---- options: "--name value" or "--name=value"; what is left are words ---- */

#define NEF_WORDS_MAX 8u

struct nef_option {
    const char *name; /* without --; NULL at the end */
    bool *flag;       /* one of these three */
    const char **text;
    uint32_t *number;
    uint32_t min, max; /* of number */
};
struct nef_words {
    const char *word[NEF_WORDS_MAX];
    uint32_t count;
};
/* False: it said what is wrong; the command returns 2. */
bool nef_options(int argc, char **argv, const struct nef_option *options, uint32_t words_min,
                 uint32_t words_max, struct nef_words *out_words);

/* "nef COMMAND: ..." to standard error. Returns 1, for `return nef_complain(...)`. */
int nef_complain(const char *command, const char *format, ...) NEF_PRINTF(2, 3);

/* ---- talking to zones ---- */

struct nef_caller {
    char urls[NEF_PLAN_ZONES][NEF_URL_MAX + 64]; /* tried in this order */
    uint32_t count;
    char token[NEF_TOKEN_BYTES];
    char ca[NEF_PATH_MAX]; /* "": system's roots */
    const char *dir;       /* of --dir, borrowed: errors say how to start that region; NULL: they don't */
    char error[1024];
};

void nef_caller_of(const struct nef_region *r, struct nef_caller *out);
/* From --dir, or --endpoint with --token-file (or $NEF_ADMIN_TOKEN) and --ca. False: it said why. */
bool nef_caller_open(const char *command, const char *dir, const char *endpoint,
                     const char *token_file, const char *ca, struct nef_caller *out);
/* Call the first zone that can be reached. body: NULL or JSON text (then POST). out_root: a new
 * reference, or NULL if the answer has no body. NEF_OK only for 2xx. Otherwise admin->error says
 * what the zone said. */
NEF_MUST_CHECK nef_err nef_caller_any(struct nef_caller *admin, const char *method,
                                      const char *path, const char *body, json_t **out_root);
/* The same to one zone (index of urls). out_status: the HTTP status, 0 without an answer. */
NEF_MUST_CHECK nef_err nef_caller_zone(struct nef_caller *admin, uint32_t zone, const char *method,
                                       const char *path, const char *body, uint32_t timeout_ms,
                                       long *out_status, json_t **out_root);

/* Members of an object, or PRESET where they are absent, null or of another type. Borrowed from
 * OBJECT. */
const char *nef_json_text(const json_t *object, const char *name, const char *preset);
double nef_json_number(const json_t *object, const char *name, double preset);

/* Status as a table to standard output; false if ROOT isn't one. */
bool nef_status_print(const json_t *root);
/* "12.3 MB". out: 32 bytes. */
void nef_human_bytes(char out[32], double bytes);

#endif
