/* Progress of a transfer, on a terminal only; see model.h. */
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "cli/model.h"
#include "io/clock.h"

#define SHOW_MS   100u
#define WIDTH_MIN 20u
#define BAR_MAX   40u

void nef_model_bar_text(char *out, size_t room, uint32_t width, const char *verb, uint64_t done, uint64_t total,
                        double bytes_per_s)
{
    char have[32], all[32], speed[32], tail[160], bar[BAR_MAX + 3] = "";
    double part = total == 0 ? 1 : (double)done / (double)total;
    int used;

    nef_human_bytes(have, (double)done);
    nef_human_bytes(all, (double)total);
    nef_human_bytes(speed, bytes_per_s);
    used = snprintf(tail, sizeof(tail), " %3d %%  %s of %s  %s/s", (int)(part * 100), have, all, speed);
    if (bytes_per_s > 0 && done < total) {
        double left = (double)(total - done) / bytes_per_s;

        if (left < 360000)
            used += snprintf(tail + used, sizeof(tail) - (size_t)used, "  %u:%02u left", (unsigned)left / 60,
                             (unsigned)left % 60);
    }
    if (strlen(verb) + (size_t)used + WIDTH_MIN < width) {
        uint32_t cells = width - (uint32_t)strlen(verb) - (uint32_t)used - 4;
        uint32_t full;

        cells = cells > BAR_MAX ? BAR_MAX : cells;
        full = (uint32_t)(part * cells);
        bar[0] = '[';
        for (uint32_t i = 0; i < cells; i++)
            bar[1 + i] = i < full ? '#' : '.';
        bar[1 + cells] = ']';
        bar[2 + cells] = '\0';
    }
    (void)snprintf(out, room < width + 1 ? room : width + 1, "%s %s%s", verb, bar, tail);
}

void nef_model_bar_begin(struct nef_model_bar *bar, const char *verb, uint64_t done, uint64_t total)
{
    *bar = (struct nef_model_bar){
        .on = isatty(2) == 1, .verb = verb, .total = total, .start_ms = nef_now_ms(), .start_bytes = done};
}

void nef_model_bar_show(struct nef_model_bar *bar, uint64_t done)
{
    struct winsize size = {.ws_col = 0};
    uint64_t now = nef_now_ms();
    uint32_t width = 79;
    char line[256];

    if (!bar->on || now - bar->shown_ms < SHOW_MS)
        return;
    bar->shown_ms = now;
    if (ioctl(2, TIOCGWINSZ, &size) == 0 && size.ws_col > WIDTH_MIN)
        width = size.ws_col - 1u;
    if (width > sizeof(line) - 1)
        width = sizeof(line) - 1;
    nef_model_bar_text(line, sizeof(line), width, bar->verb, done, bar->total,
                       now > bar->start_ms ? (double)(done - bar->start_bytes) * 1000 / (double)(now - bar->start_ms)
                                           : 0);
    (void)fprintf(stderr, "\r%s\033[K", line);
    (void)fflush(stderr);
}

void nef_model_bar_end(struct nef_model_bar *bar)
{
    if (bar->on)
        (void)fprintf(stderr, "\r\033[K");
    bar->on = false;
}
