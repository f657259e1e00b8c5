/* What /proc tells of a process: enough to know one again. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/assert.h"
#include "cli/state.h"
#include "crypto/crypto.h"

/* etcd's is the longest of ours; a longer one isn't ours */
#define COMMAND_MAX 32768u

static ssize_t slurp(const char *path, char *out, size_t bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t at = 0;

    if (fd < 0)
        return -1;
    while (at < bytes) {
        ssize_t got = read(fd, out + at, bytes - at);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            (void)close(fd); /* reading only */
            return -1;
        }
        if (got == 0)
            break;
        at += (size_t)got;
    }
    (void)close(fd); /* reading only */
    return (ssize_t)at;
}

nef_err nef_proc_parse(const char *line, char *out_state, uint64_t *out_start_ticks)
{
    /* The second field is the name in parentheses and may hold anything, ')' and blanks included;
     * the last
     * ')' ends it. State is field 3, start time field 22 (proc(5)). */
    const char *at = strrchr(line, ')');
    char state;
    char *end;
    unsigned long long ticks;

    if (at == NULL || at[1] != ' ' || !isalpha((unsigned char)at[2]))
        return NEF_E_PROTOCOL;
    at += 2;
    state = *at;
    for (int field = 3; field < 22; field++) {
        at = strchr(at, ' ');
        if (at == NULL)
            return NEF_E_PROTOCOL;
        at++;
    }
    if (!isdigit((unsigned char)*at))
        return NEF_E_PROTOCOL;
    errno = 0;
    ticks = strtoull(at, &end, 10);
    if (errno != 0 || (*end != ' ' && *end != '\n' && *end != 0))
        return NEF_E_PROTOCOL;
    *out_state = state;
    *out_start_ticks = ticks;
    return NEF_OK;
}

static void look(pid_t pid, struct nef_seen *out, char *command, size_t *out_bytes)
{
    char path[64], line[4096];
    ssize_t bytes;
    char state;
    uint64_t ticks;

    *out = (struct nef_seen){.there = false};
    *out_bytes = 0;
    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    bytes = slurp(path, line, sizeof(line) - 1);
    if (bytes <= 0)
        return;
    line[bytes] = 0;
    if (nef_proc_parse(line, &state, &ticks) != NEF_OK || state == 'Z' || state == 'X')
        return;
    (void)snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
    bytes = slurp(path, command, COMMAND_MAX);
    if (bytes <= 0 || (size_t)bytes >= COMMAND_MAX)
        return;
    out->there = true;
    out->state = state;
    out->identity.pid = pid;
    out->identity.start_ticks = ticks;
    nef_hash_of(NEF_HASH_SHA256, command, (size_t)bytes, out->identity.command);
    *out_bytes = (size_t)bytes;
}

void nef_proc_look(pid_t pid, struct nef_seen *out)
{
    char *command = malloc(COMMAND_MAX);
    size_t bytes;

    *out = (struct nef_seen){.there = false};
    if (command != NULL)
        look(pid, out, command, &bytes);
    free(command);
}

void nef_proc_boot_id(char out[40])
{
    ssize_t bytes = slurp("/proc/sys/kernel/random/boot_id", out, 39);

    out[bytes > 0 ? bytes : 0] = 0;
    out[strcspn(out, "\n")] = 0;
}

void nef_proc_find(const struct nef_etcd_args *argv, enum nef_process_kind kind,
                   struct nef_seen *out)
{
    char *command = malloc(COMMAND_MAX);
    DIR *proc = opendir("/proc");
    struct dirent *entry;

    *out = (struct nef_seen){.there = false};
    while (proc != NULL && command != NULL && (entry = readdir(proc)) != NULL) {
        char *end;
        long pid = strtol(entry->d_name, &end, 10);
        struct nef_seen seen;
        size_t bytes;

        if (*end != 0 || pid <= 1 || pid == getpid() || kill((pid_t)pid, 0) != 0)
            continue; /* somebody else's: we may not signal it */
        look((pid_t)pid, &seen, command, &bytes);
        if (seen.there && nef_command_matches(argv, kind, command, bytes)) {
            *out = seen;
            break;
        }
    }
    if (proc != NULL)
        (void)closedir(proc); /* reading only */
    free(command);
}

void nef_state_survivor(const struct nef_region *r, const struct nef_programs *programs,
                        const struct nef_supervisor_state *state, const char *boot_id,
                        uint32_t index, struct nef_seen *out)
{
    struct nef_process p = nef_process_at(r, index);
    pid_t recorded = state->records[index].identity.pid;
    struct nef_etcd_args argv;

    *out = (struct nef_seen){.there = false};
    if (recorded > 1) {
        nef_proc_look(recorded, out);
        if (nef_adopts(state, boot_id, index, out))
            return;
        *out = (struct nef_seen){.there = false};
    }
    if (nef_process_args(r, index, programs, NEF_ETCD_START_NORMAL, 0, &argv) == NEF_OK)
        nef_proc_find(&argv, p.kind, out);
}
